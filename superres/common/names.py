"""Suggestions for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error text that suggests the nearest known name; empty if none is near."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""


def unknown_name(noun: str, name: str, known: Iterable[str], others: str = "") -> str:
    """The error text for an unknown name: the nearest, and all names; `others` ends the list."""
    names = list(known)
    hint = did_you_mean(name, names)
    available = "; available" if not hint else f"{hint} Available"
    return f"no {noun} {name!r}{available}: {', '.join(names)}{others}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to a misspelt one, whatever its case; None if none is near."""
    by_folded_name = {each.casefold(): each for each in known}
    matches = get_close_matches(name.casefold(), by_folded_name, n=1)
    return by_folded_name[matches[0]] if matches else None
