"""Training needs a user's statement of rights, and never uses pictures that clients sent."""

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
def own_folder(tmp_path: Path) -> Path:
    """An own folder with a picture in it."""
    write(tmp_path / "shop" / "a.png", GREY)
    return tmp_path / "shop"


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    """A folder in which a service keeps a client's picture."""
    folder = tmp_path / "blobs"
    mark_as_clients(folder)
    write(folder / "ab" / "sent.png", GREY)
    return folder


def test_adding_records_the_statement_and_does_not_copy_the_pictures(
    run_data: Run, own_folder: Path, state: Path
) -> None:
    result = run_data("add", own_folder, *TERMS)
    assert (result["source"], result["pictures"], result["watched"]) == ("shop", 1, False)
    record = read_record("shop")
    assert isinstance(record, AddedSource)
    assert record.terms.statement == STATEMENT
    assert record.terms.licence == "CC0-1.0"
    assert "@" in record.terms.by
    assert record.terms.at.endswith("+00:00")
    assert record.folder == own_folder
    assert [path.suffix for path in state.rglob("*.png")] == []


@pytest.mark.parametrize(
    "arguments", [[], ["--i-own-the-rights"], ["--licence", "CC0"], [*TERMS[:2], " "]]
)
def test_adding_needs_the_statement_and_a_licence(own_folder: Path, arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="--i-own-the-rights --licence") as refusal:
        data(["add", str(own_folder), *arguments])
    assert "needs a statement" in str(refusal.value)
    assert read_record("shop") is None


@pytest.mark.parametrize("name", ["sample", "div2k", "../up", "", "a/b", ".hidden", "x" * 65])
def test_a_taken_or_invalid_name_is_rejected(own_folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        add_folder(own_folder, name=name, licence="CC0-1.0", owns_the_rights=True)


def test_a_missing_or_empty_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, reason in (
        (tmp_path / "none", "not a folder"),
        (tmp_path / "empty", "no pictures"),
    ):
        with pytest.raises(UsageError, match=reason):
            data(["add", str(folder), *TERMS])


def test_adding_again_keeps_the_first_terms(run_data: Run, own_folder: Path) -> None:
    run_data("add", own_folder, *TERMS)
    first = read_record("shop")
    assert run_data("add", own_folder, *TERMS, "--watch")["watched"] is True
    assert isinstance(first, AddedSource)
    assert read_record("shop") == first.model_copy(update={"watched": True})


def test_other_terms_need_replace_and_the_first_stay_on_record(
    run_data: Run, own_folder: Path
) -> None:
    run_data("add", own_folder, *TERMS)
    with pytest.raises(UsageError, match="--replace"):
        data(["add", str(own_folder), "--i-own-the-rights", "--licence", "owned"])
    assert find_pictures(["shop"])[0].licence == "CC0-1.0"
    run_data("add", own_folder, "--i-own-the-rights", "--licence", "owned", "--replace")
    assert find_pictures(["shop"])[0].licence == "owned"
    record = read_record("shop")
    assert isinstance(record, AddedSource)
    assert [terms.licence for terms in record.earlier] == ["CC0-1.0"]


def test_moving_a_name_to_another_folder_needs_replace(
    run_data: Run, own_folder: Path, tmp_path: Path
) -> None:
    run_data("add", own_folder, *TERMS)
    write(tmp_path / "new" / "b.png", GREY)
    with pytest.raises(UsageError, match="--replace"):
        data(["add", str(tmp_path / "new"), "--name", "shop", *TERMS])
    run_data("add", tmp_path / "new", "--name", "shop", *TERMS, "--replace")
    assert [picture.name for picture in find_pictures(["shop"])] == ["shop-b"]


def test_one_folder_has_one_name(run_data: Run, own_folder: Path, tmp_path: Path) -> None:
    run_data("add", own_folder, *TERMS)
    (tmp_path / "link").symlink_to(own_folder)
    for folder in (own_folder, tmp_path / "link"):
        with pytest.raises(UsageError, match="is already the source shop"):
            data(["add", str(folder), "--name", "second", *TERMS])


def test_pairs_are_added_by_their_folders_and_scale(run_data: Run, tmp_path: Path) -> None:
    small = Picture(rgb_hwc=GREY.rgb_hwc[::2, ::2].copy())
    write(tmp_path / "mine" / "HR" / "a.png", GREY)
    write(tmp_path / "mine" / "LR" / "a.png", small)
    assert run_data("add", tmp_path / "mine", "--pairs", "--scale", 2, *TERMS)["source"] == "mine"
    [picture] = find_pictures(["mine"], scale=2, degradation="given")
    assert picture.lr_path == tmp_path / "mine" / "LR" / "a.png"
    for arguments in (["--pairs"], ["--scale", "2"]):
        with pytest.raises(UsageError, match="--scale"):
            data(["add", str(tmp_path / "mine" / "HR"), *TERMS, *arguments])


def test_the_state_folder_its_parents_and_subfolders_are_rejected(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in (own_folder, own_folder / "inside", own_folder.parent):
        monkeypatch.setenv("SHARPLINE_STATE", str(state))
        with pytest.raises(UsageError, match="state folder"):
            data(["add", str(own_folder), *TERMS])


def test_clients_folders_their_parents_and_subfolders_are_rejected(
    clients: Path, tmp_path: Path
) -> None:
    write(tmp_path / "top.png", GREY)
    write(clients / "top.png", GREY)
    (tmp_path / "link").symlink_to(clients / "ab")
    for folder in (clients, clients / "ab", tmp_path / "link", tmp_path):
        with pytest.raises(ClientsPictures, match="clients sent"):
            data(["add", str(folder), *TERMS])


def test_links_to_clients_pictures_and_files_in_clients_folders_are_rejected(
    clients: Path, own_folder: Path
) -> None:
    (own_folder / "theirs.png").symlink_to(clients / "ab" / "sent.png")
    (clients / "ours.png").symlink_to(own_folder / "a.png")
    for path in (own_folder / "theirs.png", clients / "ours.png", clients / "ab" / "none.png"):
        with pytest.raises(ClientsPictures):
            refuse_clients_pictures(path)
    refuse_clients_pictures(own_folder / "a.png")


def test_a_plan_leaves_out_a_link_to_a_clients_picture(
    clients: Path, own_folder: Path, add: Callable[..., str], tmp_path: Path
) -> None:
    from training.data.shards.plan import read_plan

    (own_folder / "theirs.png").symlink_to(clients / "ab" / "sent.png")
    found = find_pictures([add(own_folder)])
    plan = read_plan(make_plan(found, PairRecipe(scale=4, degradation="bicubic"), tmp_path / "out"))
    assert [picture.name for picture in plan.pictures] == ["shop-a"]
    assert [entry.name for entry in plan.left_out] == ["shop-theirs"]


def test_a_plan_leaves_out_model_output(
    own_folder: Path, add: Callable[..., str], tmp_path: Path
) -> None:
    from training.data.shards.plan import read_plan

    step = Step(model="compact_x4", version="1", bundle="ab" * 32)
    write(own_folder / "made.jpg", replace(GREY, passport=extended(None, step).text()))
    found = find_pictures([add(own_folder)])
    plan = read_plan(make_plan(found, PairRecipe(scale=4, degradation="bicubic"), tmp_path / "out"))
    assert [picture.name for picture in plan.pictures] == ["shop-a"]
    assert [(entry.name, entry.reason.split(",")[0]) for entry in plan.left_out] == [
        ("shop-made", "compact_x4 made it")
    ]


def test_marking_is_idempotent_and_explains_itself(tmp_path: Path) -> None:
    mark_as_clients(tmp_path / "blobs")
    marked = (tmp_path / "blobs" / MARKER).stat()
    mark_as_clients(tmp_path / "blobs")
    assert (tmp_path / "blobs" / MARKER).stat() == marked
    assert "never training data" in (tmp_path / "blobs" / MARKER).read_text()


@pytest.fixture
def server_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that contains every location that a server may write to."""
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
    """The files below a folder that a user could make part of a dataset, by adding any folder.

    Uses another state folder, so that nothing is rejected only for being in the state folder.
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


def test_no_file_that_a_server_keeps_can_become_training_data(
    server_home: Path,
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
        kept = [path for path in server_home.rglob("*") if path.is_file()]
    finally:
        server.stop()
    kept += [path for path in server_home.rglob("*") if path.is_file()]
    # In whatever form a file is stored, a user may rename it to a picture; its folder decides.
    for path in dict.fromkeys(kept):
        if path.exists() and path.name != MARKER:
            os.link(path, path.with_name(f"{path.name}.png"))
    assert trainable(server_home, tmp_path / "another", monkeypatch) == []


def test_trainable_finds_a_file_in_an_unmarked_folder(
    server_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(server_home / "work" / "left.png", GREY)
    mark_as_clients(server_home / "state" / "blobs")
    write(server_home / "state" / "blobs" / "sent.png", GREY)
    found = trainable(server_home, tmp_path / "another", monkeypatch)
    assert found == [server_home / "work" / "left.png"]
