"""Which sources a run reads: those asked for and the watched ones; absent ones are fetched."""

import pytest

from pipelines.sources import choose_sources


def listed(name, kind, *, there=True, watched=False, pictures=8):
    """A source as `sharpline data list` lists it."""
    fields = {"there": there, "watched": watched, "pictures": pictures}
    return {"name": name, "kind": kind} | fields


LISTED = [
    listed("sample", "embedded"),
    listed("div2k", "catalogue", there=False),
    listed("flickr2k", "catalogue"),
    listed("mine", "added"),
    listed("inbox", "added", watched=True),
    listed("empty", "added", watched=True, pictures=0),
]


def chosen(source, *also, watched=False):
    asked = {"source": source, "also": list(also), "watched": watched}
    return choose_sources(asked, LISTED)


@pytest.mark.parametrize("name", ["sample", "flickr2k", "mine"])
def test_what_is_here_is_not_fetched(name):
    sources = chosen(name)
    assert sources.names == [name]
    assert sources.missing == []


def test_what_the_catalogue_knows_and_is_not_here_is_fetched():
    sources = chosen("sample", "div2k")
    assert sources.names == ["sample", "div2k"]
    assert sources.missing == ["div2k"]


def test_watched_sources_join_last_and_once():
    assert chosen("sample", watched=True).names == ["sample", "inbox"]
    assert chosen("inbox", "sample", "inbox", watched=True).names == ["inbox", "sample"]


def test_a_source_that_nobody_knows_is_left_to_planning_to_refuse():
    sources = chosen("div3k")
    assert sources.names == ["div3k"]
    assert sources.missing == []
