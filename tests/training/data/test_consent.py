"""Pictures get into training by someone's word alone, and what clients sent never does."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superres.common.errors import SharplineError, UsageError
from superres.dataset.consent import (
    MARKER,
    ClientsPictures,
    mark_as_clients,
    refuse_clients_pictures,
)
from superres.image.codecs import Picture, encode, write
from superres.image.passport import Step, extended
from training.data.cli import data
from training.data.shards.plan import PairRecipe, make_plan
from training.data.sources.own import STATEMENT, add_folder
from training.data.sources.records import AddedSource, read_record
from training.data.sources.resolve import find_pictures

Run = Callable[..., dict[str, Any]]
GREY = Picture(rgb_hwc=np.full((96, 96, 3), 128, np.uint8))
TERMS = ("--i-own-the-rights", "--licence", "CC0-1.0")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An own folder with a picture in it."""
    write(tmp_path / "shop" / "a.png", GREY)
    return tmp_path / "shop"


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    """A folder in which a service keeps a picture that a client sent."""
    folder = tmp_path / "blobs"
    mark_as_clients(folder)
    write(folder / "ab" / "sent.png", GREY)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `sharpline data WORDS --json` and return its answer."""

    def call(*arguments: object) -> dict[str, Any]:
        assert data([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def test_adding_records_who_said_what_and_when_and_leaves_the_pictures(
    run: Run, shop: Path, state: Path
) -> None:
    answer = run("add", shop, *TERMS)
    assert (answer["source"], answer["pictures"], answer["watched"]) == ("shop", 1, False)
    record = read_record("shop")
    assert isinstance(record, AddedSource)
    assert record.terms.statement == STATEMENT
    assert record.terms.licence == "CC0-1.0"
    assert "@" in record.terms.by
    assert record.terms.at.endswith("+00:00")
    assert record.folder == shop
    assert [path.suffix for path in state.rglob("*.png")] == []


@pytest.mark.parametrize(
    "arguments", [[], ["--i-own-the-rights"], ["--licence", "CC0"], [*TERMS[:2], " "]]
)
def test_without_word_and_licence_nothing_is_added(shop: Path, arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="--i-own-the-rights --licence") as refusal:
        data(["add", str(shop), *arguments])
    assert "someone's word" in str(refusal.value)
    assert read_record("shop") is None


@pytest.mark.parametrize("name", ["sample", "div2k", "../up", "", "a/b", ".hidden", "x" * 65])
def test_a_name_that_is_taken_or_no_file_name_is_refused(shop: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        add_folder(shop, name=name, licence="CC0-1.0", owns_the_rights=True)


def test_a_folder_that_is_none_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, reason in (
        (tmp_path / "none", "not a folder"),
        (tmp_path / "empty", "no pictures"),
    ):
        with pytest.raises(UsageError, match=reason):
            data(["add", str(folder), *TERMS])


def test_saying_the_same_again_keeps_the_first_word(run: Run, shop: Path) -> None:
    run("add", shop, *TERMS)
    first = read_record("shop")
    assert run("add", shop, *TERMS, "--watch")["watched"] is True
    assert isinstance(first, AddedSource)
    assert read_record("shop") == first.model_copy(update={"watched": True})


def test_other_terms_are_refused_until_they_replace_the_first_which_stay_on_record(
    run: Run, shop: Path
) -> None:
    run("add", shop, *TERMS)
    with pytest.raises(UsageError, match="--replace"):
        data(["add", str(shop), "--i-own-the-rights", "--licence", "owned"])
    assert find_pictures(["shop"])[0].licence == "CC0-1.0"
    run("add", shop, "--i-own-the-rights", "--licence", "owned", "--replace")
    assert find_pictures(["shop"])[0].licence == "owned"
    record = read_record("shop")
    assert isinstance(record, AddedSource)
    assert [terms.licence for terms in record.earlier] == ["CC0-1.0"]


def test_a_name_moves_to_another_folder_by_replace_alone(
    run: Run, shop: Path, tmp_path: Path
) -> None:
    run("add", shop, *TERMS)
    write(tmp_path / "new" / "b.png", GREY)
    with pytest.raises(UsageError, match="--replace"):
        data(["add", str(tmp_path / "new"), "--name", "shop", *TERMS])
    run("add", tmp_path / "new", "--name", "shop", *TERMS, "--replace")
    assert [picture.name for picture in find_pictures(["shop"])] == ["shop-b"]


def test_one_folder_has_one_name(run: Run, shop: Path, tmp_path: Path) -> None:
    run("add", shop, *TERMS)
    (tmp_path / "link").symlink_to(shop)
    for folder in (shop, tmp_path / "link"):
        with pytest.raises(UsageError, match="source already, as shop"):
            data(["add", str(folder), "--name", "second", *TERMS])


def test_pairs_are_added_by_their_folders_and_scale(run: Run, tmp_path: Path) -> None:
    small = Picture(rgb_hwc=GREY.rgb_hwc[::2, ::2].copy())
    write(tmp_path / "mine" / "HR" / "a.png", GREY)
    write(tmp_path / "mine" / "LR" / "a.png", small)
    assert run("add", tmp_path / "mine", "--pairs", "--scale", 2, *TERMS)["source"] == "mine"
    [picture] = find_pictures(["mine"], scale=2, degradation="given")
    assert picture.lr_path == tmp_path / "mine" / "LR" / "a.png"
    for arguments in (["--pairs"], ["--scale", "2"]):
        with pytest.raises(UsageError, match="--scale"):
            data(["add", str(tmp_path / "mine" / "HR"), *TERMS, *arguments])


def test_the_state_folder_what_is_in_it_and_what_it_is_in_are_refused(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in (shop, shop / "inside", shop.parent):
        monkeypatch.setenv("SHARPLINE_STATE", str(state))
        with pytest.raises(UsageError, match="state folder"):
            data(["add", str(shop), *TERMS])


def test_clients_folders_what_is_in_them_and_what_they_are_in_are_refused(
    clients: Path, tmp_path: Path
) -> None:
    write(tmp_path / "top.png", GREY)
    write(clients / "top.png", GREY)
    (tmp_path / "link").symlink_to(clients / "ab")
    for folder in (clients, clients / "ab", tmp_path / "link", tmp_path):
        with pytest.raises(ClientsPictures, match="clients sent"):
            data(["add", str(folder), *TERMS])


def test_a_link_to_a_clients_picture_is_refused_and_so_is_one_in_a_clients_folder(
    clients: Path, shop: Path
) -> None:
    (shop / "theirs.png").symlink_to(clients / "ab" / "sent.png")
    (clients / "ours.png").symlink_to(shop / "a.png")
    for path in (shop / "theirs.png", clients / "ours.png", clients / "ab" / "none.png"):
        with pytest.raises(ClientsPictures):
            refuse_clients_pictures(path)
    refuse_clients_pictures(shop / "a.png")


def test_a_plan_leaves_out_a_link_to_a_clients_picture(
    clients: Path, shop: Path, add: Callable[..., str], tmp_path: Path
) -> None:
    from training.data.shards.plan import read_plan

    (shop / "theirs.png").symlink_to(clients / "ab" / "sent.png")
    found = find_pictures([add(shop)])
    plan = read_plan(make_plan(found, PairRecipe(scale=4, degradation="bicubic"), tmp_path / "out"))
    assert [picture.name for picture in plan.pictures] == ["shop-a"]
    assert [entry.name for entry in plan.left_out] == ["shop-theirs"]


def test_a_plan_leaves_out_what_a_model_made(
    shop: Path, add: Callable[..., str], tmp_path: Path
) -> None:
    from training.data.shards.plan import read_plan

    step = Step(model="compact_x4", version="1", bundle="ab" * 32)
    write(shop / "made.jpg", replace(GREY, passport=extended(None, step).text()))
    found = find_pictures([add(shop)])
    plan = read_plan(make_plan(found, PairRecipe(scale=4, degradation="bicubic"), tmp_path / "out"))
    assert [picture.name for picture in plan.pictures] == ["shop-a"]
    assert [(entry.name, entry.reason.split(",")[0]) for entry in plan.left_out] == [
        ("shop-made", "compact_x4 made it")
    ]


def test_marking_is_once_and_says_what_it_is_for(tmp_path: Path) -> None:
    mark_as_clients(tmp_path / "blobs")
    marked = (tmp_path / "blobs" / MARKER).stat()
    mark_as_clients(tmp_path / "blobs")
    assert (tmp_path / "blobs" / MARKER).stat() == marked
    assert "never training data" in (tmp_path / "blobs" / MARKER).read_text()


@pytest.fixture
def premises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which lies every place that a server may think of writing to."""
    home = tmp_path / "premises"
    for name in ("state", "home", "tmp", "work"):
        (home / name).mkdir(parents=True)
    monkeypatch.setenv("SHARPLINE_STATE", str(home / "state"))
    monkeypatch.setenv("HOME", str(home / "home"))
    monkeypatch.setenv("TMPDIR", str(home / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(home / "work")
    yield home
    monkeypatch.undo()
    tempfile.tempdir = None


def trainable(folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files below a folder that a person could make part of a dataset, by adding any folder.

    The person works with another state folder, so that nothing is refused for lying in it alone.
    """
    monkeypatch.setenv("SHARPLINE_STATE", str(state))
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        try:
            refuse_clients_pictures(path)
            add_folder(path.parent, name="any", licence="x", owns_the_rights=True, replace=True)
        except SharplineError:
            continue
        found += [picture.path for picture in find_pictures(["any"])]
    return found


def test_nothing_that_a_server_keeps_of_its_clients_can_become_training_data(
    premises: Path,
    picture_server: Callable[..., Any],
    tiny_bundle: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    body = encode(Picture(rgb_hwc=noise), "png")
    server = picture_server(tiny_bundle().root.parent)
    try:
        raw = server.client.post("/v1/enhance", content=body)
        form = server.client.post("/v1/enhance", files={"file": ("sent.png", body)})
        later = server.client.post("/v1/enhance", content=body, headers={"Prefer": "respond-async"})
        assert (raw.status_code, form.status_code) == (200, 200), form.text
        assert later.status_code in (200, 202)  # 202 where the server keeps it as a job
        kept = [path for path in premises.rglob("*") if path.is_file()]
    finally:
        server.stop()
    kept += [path for path in premises.rglob("*") if path.is_file()]
    # Whatever form it is kept in, somebody may give it a picture's name; its folder decides.
    for path in dict.fromkeys(kept):
        if path.exists() and path.name != MARKER:
            os.link(path, path.with_name(f"{path.name}.png"))
    assert trainable(premises, tmp_path / "another", monkeypatch) == []


def test_the_search_for_trainable_files_finds_one_that_is_kept_without_a_mark(
    premises: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(premises / "work" / "left.png", GREY)
    mark_as_clients(premises / "state" / "blobs")
    write(premises / "state" / "blobs" / "sent.png", GREY)
    found = trainable(premises, tmp_path / "another", monkeypatch)
    assert found == [premises / "work" / "left.png"]
