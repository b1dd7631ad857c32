"""Watched folders: what counts as content, and when it has settled."""

import json
import os
from pathlib import Path

import pytest

from pipelines.folders import FolderContent, SettledContent, watched_contents


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"one")
    return folder


def add(state, name, folder, **fields):
    """Write the record of a source as `sharpline data add` does."""
    record = {"kind": "added", "folder": str(folder), "lr_folder": None, "watched": True} | fields
    record_folder = state / "sources" / name
    record_folder.mkdir(parents=True)
    (record_folder / "source.json").write_text(json.dumps(record))


def keys(state):
    return [content.key for content in watched_contents(state)]


def test_only_watched_sources_with_files_are_listed(tmp_path, inbox):
    (tmp_path / "empty").mkdir()
    add(tmp_path, "inbox", inbox)
    add(tmp_path, "quiet", inbox, watched=False)
    add(tmp_path, "empty", tmp_path / "empty")
    add(tmp_path, "gone", tmp_path / "gone")
    add(tmp_path, "fetched", inbox, kind="fetched", watched=None)
    [content] = watched_contents(tmp_path)
    assert content.as_dict() == {
        "key": content.key,
        "source": "inbox",
        "folder": str(inbox),
        "files": 1,
    }


def test_without_any_source_nothing_is_watched(tmp_path):
    assert watched_contents(tmp_path) == []


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"watched": true}', '{"watched": true, "folder": 3}']
)
def test_a_broken_record_is_skipped(tmp_path, inbox, record):
    add(tmp_path, "inbox", inbox)
    add(tmp_path, "broken", inbox)
    (tmp_path / "sources" / "broken" / "source.json").write_text(record)
    assert [content.source for content in watched_contents(tmp_path)] == ["inbox"]


def rewrite(path, data):
    """Write other bytes of the same length, and another modification time, as a listing shows."""
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "b.png").write_bytes(b"two"),
        lambda folder: (folder / "a.png").rename(folder / "c.png"),
        lambda folder: (folder / "a.png").write_bytes(b"longer"),
        lambda folder: rewrite(folder / "a.png", b"eno"),
    ],
    ids=["new", "renamed", "grown", "rewritten"],
)
def test_any_change_of_the_listing_changes_the_key(tmp_path, inbox, change):
    add(tmp_path, "inbox", inbox)
    before = keys(tmp_path)
    assert keys(tmp_path) == before
    change(inbox)
    assert keys(tmp_path) != before


def test_hidden_files_and_subfolders_are_not_content(tmp_path, inbox):
    add(tmp_path, "inbox", inbox)
    before = keys(tmp_path)
    (inbox / ".a.png.partial").write_bytes(b"half")
    (inbox / "below").mkdir()
    assert keys(tmp_path) == before


def test_paired_low_resolution_pictures_are_content_too(tmp_path, inbox):
    lr_folder = tmp_path / "LR"
    lr_folder.mkdir()
    add(tmp_path, "inbox", inbox, lr_folder=str(lr_folder))
    before = keys(tmp_path)
    (lr_folder / "a.png").write_bytes(b"small")
    assert keys(tmp_path) != before


def content(digest, source="inbox"):
    return FolderContent(source=source, folder=Path("/inbox"), files=1, digest=digest)


def test_content_is_settled_once_every_poll_saw_the_same():
    settling = SettledContent(settle_seconds=30)
    assert settling.settled([content("a")], now=0) == []
    assert settling.settled([content("b")], now=20) == []
    assert settling.settled([content("b")], now=40) == []
    assert settling.settled([content("b")], now=50) == [content("b")]


def test_content_that_comes_back_has_to_settle_again():
    settling = SettledContent(settle_seconds=30)
    settling.settled([content("a")], now=0)
    settling.settled([content("b")], now=20)
    assert settling.settled([content("a")], now=40) == []
    assert settling.settled([content("a")], now=70) == [content("a")]


def test_one_folder_does_not_wait_for_another():
    settling = SettledContent(settle_seconds=30)
    settling.settled([content("a", "one")], now=0)
    both = [content("a", "one"), content("b", "two")]
    assert settling.settled(both, now=30) == [content("a", "one")]
