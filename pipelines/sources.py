"""The sources that a `build_pairs` run reads, and those that must be fetched first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of one run, each once, in the order of the parameters."""

    names: list[str]
    missing: list[str]  # in the catalogue, not fetched yet


def choose_sources(parameters: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> Sources:
    """The sources of a run's parameters, given the output of `sharpline data list`.

    Watched sources with pictures are included where the parameters say so. An unknown name is kept:
    planning rejects it with an explanation.
    """
    watched = [entry["name"] for entry in listed if entry["watched"] and entry["pictures"]]
    requested = [
        parameters["source"],
        *parameters["also"],
        *(watched if parameters["watched"] else ()),
    ]
    names = list(dict.fromkeys(requested))
    absent = {entry["name"] for entry in listed if _is_absent(entry, parts_for(parameters))}
    return Sources(names=names, missing=[name for name in names if name in absent])


def parts_for(parameters: Mapping[str, Any]) -> list[str]:
    """The parts of a catalogue source that a run needs: HR, and the LR track if it names one."""
    kind, _, track = parameters["degrade"].partition(":")
    track_part = [f"{track}_x{parameters['scale']}"] if kind == "given" and track else []
    return ["hr", *track_part]


def _is_absent(entry: Mapping[str, Any], parts: Sequence[str]) -> bool:
    """Whether a source is in the catalogue and some of these parts are not fetched."""
    complete = entry["available"] and set(parts) <= set(entry["parts"])
    return entry["kind"] == "catalogue" and not complete
