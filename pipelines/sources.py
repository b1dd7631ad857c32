"""Which sources a `build_pairs` run reads, and which of them must be fetched first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of one run, each once, in the order of asking."""

    names: list[str]
    missing: list[str]  # known to the catalogue, and not here yet


def choose_sources(parameters: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> Sources:
    """The sources that a run's parameters ask for, out of what `sharpline data list` lists.

    Watched ones that hold pictures join where the parameters say so. A name that is not listed is
    kept: planning refuses it and says what to do.
    """
    watched = [entry["name"] for entry in listed if entry["watched"] and entry["pictures"]]
    asked = [parameters["source"], *parameters["also"], *(watched if parameters["watched"] else ())]
    names = list(dict.fromkeys(asked))
    absent = {one["name"] for one in listed if _is_absent(one, parts_for(parameters))}
    return Sources(names=names, missing=[name for name in names if name in absent])


def parts_for(parameters: Mapping[str, Any]) -> list[str]:
    """The parts of a catalogue's source that a run needs: a track too where it asks for one."""
    kind, _, track = parameters["degrade"].partition(":")
    given = [f"{track}_x{parameters['scale']}"] if kind == "given" and track else []
    return ["hr", *given]


def _is_absent(entry: Mapping[str, Any], parts: Sequence[str]) -> bool:
    """Whether a source can be fetched and is not here with all these parts."""
    here = entry["there"] and set(parts) <= set(entry["parts"])
    return entry["kind"] == "catalogue" and not here
