"""The sources of a run: those of its parameters and the watched ones; missing ones are fetched."""

import pytest

from pipelines.sources import choose_sources


def listed(name, kind, *, available=True, watched=False, pictures=8, parts=("hr",)):
    """A source as `sharpline data list` lists it."""
    fields = {
        "available": available,
        "watched": watched,
        "pictures": pictures,
        "parts": list(parts),
    }
    return {"name": name, "kind": kind} | fields


LISTED = [
    listed("sample", "embedded"),
    listed("div2k", "catalogue", available=False),
    listed("flickr2k", "catalogue", parts=["hr", "bicubic_x4"]),
    listed("mine", "added"),
    listed("inbox", "added", watched=True),
    listed("empty", "added", watched=True, pictures=0),
]


def chosen(source, *also, watched=False, degrade="bicubic", scale=4):
    parameters = {"source": source, "also": list(also), "watched": watched}
    return choose_sources(parameters | {"degrade": degrade, "scale": scale}, LISTED)


@pytest.mark.parametrize("name", ["sample", "flickr2k", "mine"])
def test_local_sources_are_not_fetched(name):
    sources = chosen(name)
    assert sources.names == [name]
    assert sources.missing == []


def test_missing_catalogue_sources_are_fetched():
    sources = chosen("sample", "div2k")
    assert sources.names == ["sample", "div2k"]
    assert sources.missing == ["div2k"]


@pytest.mark.parametrize(
    ("degrade", "scale", "missing"),
    [
        ("given:bicubic", 4, []),
        ("given:bicubic", 2, ["flickr2k"]),
        ("given:unknown", 4, ["flickr2k"]),
        ("given", 2, []),  # planning asks for the track
        ("jpeg", 2, []),
    ],
)
def test_a_requested_track_is_fetched_too(degrade, scale, missing):
    assert chosen("flickr2k", degrade=degrade, scale=scale).missing == missing
    assert chosen("mine", degrade=degrade, scale=scale).missing == []


def test_watched_sources_are_appended_once():
    assert chosen("sample", watched=True).names == ["sample", "inbox"]
    assert chosen("inbox", "sample", "inbox", watched=True).names == ["inbox", "sample"]


def test_an_unknown_source_is_left_for_planning_to_reject():
    sources = chosen("div3k")
    assert sources.names == ["div3k"]
    assert sources.missing == []
