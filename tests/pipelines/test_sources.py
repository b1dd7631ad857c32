"""Which sources a run reads: those asked for and the watched ones; absent ones are fetched."""

import pytest

from pipelines.sources import choose_sources


def listed(name, kind, *, there=True, watched=False, pictures=8, parts=("hr",)):
    """A source as `sharpline data list` lists it."""
    fields = {"there": there, "watched": watched, "pictures": pictures, "parts": list(parts)}
    return {"name": name, "kind": kind} | fields


LISTED = [
    listed("sample", "embedded"),
    listed("div2k", "catalogue", there=False),
    listed("flickr2k", "catalogue", parts=["hr", "bicubic_x4"]),
    listed("mine", "added"),
    listed("inbox", "added", watched=True),
    listed("empty", "added", watched=True, pictures=0),
]


def chosen(source, *also, watched=False, degrade="bicubic", scale=4):
    asked = {"source": source, "also": list(also), "watched": watched}
    return choose_sources(asked | {"degrade": degrade, "scale": scale}, LISTED)


@pytest.mark.parametrize("name", ["sample", "flickr2k", "mine"])
def test_what_is_here_is_not_fetched(name):
    sources = chosen(name)
    assert sources.names == [name]
    assert sources.missing == []


def test_what_the_catalogue_knows_and_is_not_here_is_fetched():
    sources = chosen("sample", "div2k")
    assert sources.names == ["sample", "div2k"]
    assert sources.missing == ["div2k"]


@pytest.mark.parametrize(
    ("degrade", "scale", "missing"),
    [
        ("given:bicubic", 4, []),
        ("given:bicubic", 2, ["flickr2k"]),
        ("given:unknown", 4, ["flickr2k"]),
        ("given", 2, []),  # which track is left to planning to ask
        ("jpeg", 2, []),
    ],
)
def test_a_track_that_is_asked_for_is_fetched_too(degrade, scale, missing):
    assert chosen("flickr2k", degrade=degrade, scale=scale).missing == missing
    assert chosen("mine", degrade=degrade, scale=scale).missing == []


def test_watched_sources_join_last_and_once():
    assert chosen("sample", watched=True).names == ["sample", "inbox"]
    assert chosen("inbox", "sample", "inbox", watched=True).names == ["inbox", "sample"]


def test_a_source_that_nobody_knows_is_left_to_planning_to_refuse():
    sources = chosen("div3k")
    assert sources.names == ["div3k"]
    assert sources.missing == []
