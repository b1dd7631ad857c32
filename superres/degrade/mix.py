"""Weighted mixes of degradations, written `{real_esrgan: 0.7, bicubic: 0.3}`."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from superres.common.errors import UsageError
from superres.common.registry import EntryRegistry

# Makes the choice of a kind independent of the random numbers that the kind draws from the seed.
CHOICE_SEED = 0x6D6978


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Kinds by name, in alphabetical order, with their weights; a single kind is a mix of one."""

    weights: tuple[tuple[str, float], ...]

    @property
    def text(self) -> str:
        """The canonical text, which `parse_mix` parses; a single kind is its name."""
        if len(self.weights) == 1:
            return self.weights[0][0]
        return "{" + ", ".join(f"{kind}: {weight!r}" for kind, weight in self.weights) + "}"

    def choose(self, seed: int) -> str:
        """Draw a kind by the weights from a picture's seed."""
        if len(self.weights) == 1:
            return self.weights[0][0]
        shares = np.cumsum([weight for _, weight in self.weights])
        threshold = np.random.default_rng([seed, CHOICE_SEED]).random() * shares[-1]
        last = len(self.weights) - 1
        return self.weights[min(int(np.searchsorted(shares, threshold, side="right")), last)][0]


def parse_mix(written: str | Mapping[str, float], degradations: EntryRegistry[Any]) -> Mix:
    """Parse a recipe's mapping, its text, or the name of one kind.

    Raises UsageError for an unknown or repeated kind, or a weight that is not a number above 0.
    """
    if isinstance(written, Mapping):
        entries = [(kind, weight) for kind, weight in written.items()]
    elif written.strip().startswith("{"):
        entries = _entries(written)
    else:
        entries = [(written, 1.0)]
    if not entries:
        raise UsageError("an empty mix; write {kind: weight, ...}")
    for kind, weight in entries:
        degradations.get(kind)  # raises UsageError for an unknown kind
        if not _is_weight(weight):
            raise UsageError(
                f"degradation {kind!r} has the weight {weight!r}; give a number above 0"
            )
    names = [kind for kind, _ in entries]
    if twice := sorted({kind for kind in names if names.count(kind) > 1}):
        raise UsageError(f"degradation {twice[0]!r} is repeated in the mix")
    return Mix(weights=tuple(sorted((kind, float(weight)) for kind, weight in entries)))


def _is_weight(value: object) -> bool:
    """Whether this is a finite number above 0; YAML's `true` is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isfinite(value) and value > 0


def _entries(text: str) -> list[tuple[str, float | str]]:
    """The pairs of a flow mapping; not parsed by YAML, which keeps the last of duplicate keys."""
    inside = text.strip()
    if not inside.endswith("}"):
        raise UsageError(f"the mix {text!r} has no closing brace")
    pairs: list[tuple[str, float | str]] = []
    for pair in filter(None, (part.strip() for part in inside[1:-1].split(","))):
        kind, _, weight = (part.strip() for part in pair.partition(":"))
        try:
            pairs.append((kind, float(weight)))
        except ValueError:
            pairs.append((kind, weight))
    return pairs
