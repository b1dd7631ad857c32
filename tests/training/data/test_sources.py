"""Resolving a source's name to its pictures, splits and licences."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from superres.common.errors import SharplineError, UsageError
from superres.dataset.consent import ClientsPictures, mark_as_clients
from superres.image.codecs import Picture, read, write
from training.data.shards.plan import PairRecipe, make_plan, read_plan
from training.data.sources import sample
from training.data.sources.records import FetchedPart, FetchedSource, sources_folder, write_record
from training.data.sources.resolve import benchmark_pictures, find_pictures
from training.data.sources.sample import SAMPLE_ENTRIES, sample_pictures

Add = Callable[..., str]
GREY = Picture(rgb_hwc=np.full((64, 64, 3), 128, np.uint8))


def write_pictures(folder: Path, *names: str) -> Path:
    for name in names:
        write(folder / name, GREY)
    return folder


def fetched(name: str, role: str = "training", **parts: tuple[str, ...]) -> None:
    """Write a source as `data fetch` does; parts as SPLIT_PART, with the pictures' names."""
    recorded = []
    for key, names in parts.items():
        split, _, part = key.partition("_")
        write_pictures(sources_folder() / name / split / part, *names)
        recorded.append(
            FetchedPart(
                part=part,
                split=split,
                folder=f"{name}/{split}/{part}",
                pictures=len(names),
                bytes=1,
                content_sha256="0",
                archives=[],
                at="2026-01-01T00:00:00+00:00",
            )
        )
    write_record(
        FetchedSource(
            name=name,
            role=role,  # pyright: ignore[reportArgumentType] -- one of the two in every test
            licence="research use",
            conditions="none",
            authors="Doe 2001",
            parts=recorded,
        )
    )


def test_sample_holds_out_whole_scenes_and_states_every_licence() -> None:
    found = sample_pictures()
    splits = {picture.name: picture.split for picture in found}
    assert splits["motorcycle_left"] == splits["motorcycle_right"] == "train"
    assert {name for name, split in splits.items() if split == "validation"} == {
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
    }
    assert all(picture.licence and picture.author for picture in found)


def test_sample_pictures_are_photographs_and_boxes_lie_inside() -> None:
    for entry, picture in zip(SAMPLE_ENTRIES, sample_pictures(), strict=True):
        rgb_hwc = read(picture.path).rgb_hwc
        assert np.ptp(rgb_hwc.astype(int), axis=2).max() > 0, f"{entry.file} is grey"
        if entry.box is not None:
            assert entry.box.left + entry.box.width <= rgb_hwc.shape[1]
            assert entry.box.top + entry.box.height <= rgb_hwc.shape[0]


def test_a_wheel_with_other_pictures_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = sample.SampleEntry(
        file="coffee.png", sha256="0" * 64, split="train", licence="CC0-1.0", author="someone"
    )
    monkeypatch.setattr(sample, "SAMPLE_ENTRIES", (changed,))
    with pytest.raises(SharplineError, match=r"coffee\.png"):
        sample_pictures()


def held_out(name: str, every: int) -> set[str]:
    found = find_pictures([name], split_every=every)
    return {picture.path.name for picture in found if picture.split == "validation"}


def test_added_pictures_do_not_move_others_between_splits(tmp_path: Path, add: Add) -> None:
    shop = write_pictures(tmp_path / "shop", *(f"{index:03d}.png" for index in range(40, 80)))
    add(shop)
    before = held_out("shop", 5)
    assert 3 <= len(before) <= 15
    write_pictures(shop, *(f"{index:03d}.png" for index in range(40)))
    assert held_out("shop", 5) & {path.name for path in shop.iterdir() if path.stem >= "040"} == (
        before
    )


def test_at_least_one_picture_is_held_out_in_all_its_formats(tmp_path: Path, add: Add) -> None:
    add(write_pictures(tmp_path / "shop", "a.png", "a.jpg"))
    assert held_out("shop", 1000) == {"a.png", "a.jpg"}


def test_without_split_every_nothing_is_held_out(pictures: Path) -> None:
    assert {picture.split for picture in find_pictures(["garden"])} == {"train"}


def test_a_validation_split_of_the_source_overrides_split_every() -> None:
    fetched("alps", train_hr=("1.png", "2.png"), validation_hr=("3.png",))
    splits = {found.name: found.split for found in find_pictures(["alps"], split_every=1)}
    assert splits == {"alps-1": "train", "alps-2": "train", "alps-3": "validation"}


def test_the_licence_is_the_one_stated_when_the_folder_was_added(
    tmp_path: Path, pictures: Path, add: Add
) -> None:
    add(write_pictures(tmp_path / "shop", "a.png"), licence="owned")
    fetched("alps", train_hr=("1.png",))
    found = find_pictures(["garden", "shop", "alps"])
    assert {picture.source: picture.licence for picture in found} == {
        "garden": "CC0-1.0",
        "shop": "owned",
        "alps": "research use",
    }


def test_equal_names_are_made_unique(tmp_path: Path, add: Add) -> None:
    add(write_pictures(tmp_path / "shop", "a.png", "a.jpg"))
    assert [found.name for found in find_pictures(["shop"])] == ["shop-a", "shop-a-png"]


def test_unread_files_are_reported_with_their_reasons(tmp_path: Path, add: Add) -> None:
    shop = write_pictures(tmp_path / "shop", "a.png", "LR/ax2.png", "LR/bx2.png", "more/deep/c.png")
    for name in ("phone.HEIC", "notes.txt", ".hidden.heic"):
        (shop / name).write_bytes(b"")
    (shop / "empty").mkdir()
    add(shop, lr_folder=shop / "LR", scale=2)
    reasons = {found.name: found.unread for found in find_pictures(["shop"]) if found.unread}
    assert reasons == {
        "shop-bx2.png": "a low-resolution picture without its high-resolution one",
        "shop-more": "a folder: the pictures in it are not read; add it as a source of its own",
        "shop-phone.HEIC": ".heic files are not read; convert it to PNG or TIFF",
    }
    recipe = PairRecipe(scale=2, degradation="bicubic_jpeg")
    plan = read_plan(make_plan(find_pictures(["shop"], split_every=2), recipe, tmp_path / "root"))
    assert {entry.name: entry.reason for entry in plan.left_out} == reasons


def test_a_source_given_twice_counts_once(pictures: Path) -> None:
    assert len(find_pictures(["garden", "garden"])) == 6


def test_an_added_folder_may_be_given_by_its_path(pictures: Path) -> None:
    assert find_pictures([str(pictures)]) == find_pictures(["garden"])


def test_a_folder_that_was_never_added_is_rejected_with_the_command_that_adds_it(
    tmp_path: Path,
) -> None:
    folder = write_pictures(tmp_path / "my photos", "a.png")
    with pytest.raises(UsageError) as refusal:
        find_pictures([str(folder)])
    assert f"sharpline data add '{folder}' --name my_photos --i-own-the-rights" in str(
        refusal.value
    )


def test_a_source_that_was_not_fetched_is_rejected_with_the_command_that_fetches_it() -> None:
    with pytest.raises(UsageError, match="sharpline data fetch div2k"):
        find_pictures(["div2k"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("smaple", "there is no source 'smaple'; see `sharpline data list`"),
        ("../garden", "there is no source '../garden'"),
        ("/", "/ has not been added as a source"),
        (".", r"\. has not been added as a source(?s:.*) data add \. --name "),
    ],
)
def test_an_unknown_source_is_rejected(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^{reason}"):
        find_pictures([source])


def test_a_missing_or_empty_added_folder_is_an_error(tmp_path: Path, add: Add) -> None:
    folder = write_pictures(tmp_path / "shop", "a.png")
    add(folder)
    (folder / "a.png").unlink()
    with pytest.raises(UsageError, match="is empty"):
        find_pictures(["shop"])
    folder.rmdir()
    with pytest.raises(UsageError, match="is missing"):
        find_pictures(["shop"])


def test_a_watched_folder_may_be_empty_at_first(tmp_path: Path, add: Add) -> None:
    (tmp_path / "inbox").mkdir()
    add(tmp_path / "inbox", watched=True)
    assert find_pictures(["inbox"]) == []
    write_pictures(tmp_path / "inbox", "new.png")
    assert [picture.name for picture in find_pictures(["inbox"])] == ["inbox-new"]


def test_an_added_folder_that_was_marked_later_is_rejected(tmp_path: Path, add: Add) -> None:
    add(write_pictures(tmp_path / "shop", "a.png"))
    mark_as_clients(tmp_path)
    with pytest.raises(ClientsPictures):
        find_pictures(["shop"])


def test_a_benchmark_is_never_built_into_a_dataset() -> None:
    fetched("hills", role="benchmark", validation_hr=("1.png", "2.png"))
    fetched("alps", train_hr=("1.png",))
    with pytest.raises(UsageError, match="evaluate MODEL --on"):
        find_pictures(["hills"])
    assert [picture.name for picture in benchmark_pictures()] == ["hills-1", "hills-2"]


def test_given_pairs_each_picture_with_the_lr_of_its_name() -> None:
    fetched(
        "alps",
        train_hr=("0001.png", "0002.png", "0003.png"),
        train_bicubic_x4=("0001x4.png", "0002x4m.png", "0003.png"),
    )
    found = find_pictures(["alps"], scale=4, degradation="given")
    lr_names = [picture.lr_path.name for picture in found if picture.lr_path is not None]
    assert lr_names == ["0001x4.png", "0002x4m.png", "0003.png"]
    assert all(picture.lr_path is None for picture in find_pictures(["alps"], scale=4))


def test_of_several_lr_pictures_the_first_is_used_and_a_missing_one_is_reported() -> None:
    fetched(
        "alps",
        train_hr=("0001.png", "0002.png"),
        train_wild_x4=("0001x4w1.png", "0001x4w2.png"),
    )
    first, second = find_pictures(["alps"], scale=4, degradation="given:wild")
    assert first.lr_path is not None
    assert first.lr_path.name == "0001x4w1.png"
    assert second.lr_path is not None
    assert not second.lr_path.exists()


def test_given_lists_ambiguous_and_missing_tracks() -> None:
    fetched("div2k", train_hr=("1.png",), train_bicubic_x4=("1.png",), train_mild_x4=("1.png",))
    with pytest.raises(UsageError, match="given:bicubic or --degrade given:mild"):
        find_pictures(["div2k"], scale=4, degradation="given")
    with pytest.raises(UsageError, match="bicubic_x2"):
        find_pictures(["div2k"], scale=2, degradation="given")
    for source in ("sample",):
        with pytest.raises(UsageError, match="no low-resolution pictures"):
            find_pictures([source], degradation="given")


def test_given_needs_the_track_for_every_fetched_split() -> None:
    fetched("alps", train_hr=("1.png",), validation_hr=("2.png",), train_bicubic_x4=("1.png",))
    with pytest.raises(UsageError, match="--part bicubic_x4"):
        find_pictures(["alps"], scale=4, degradation="given")


def test_low_resolution_pictures_alone_are_not_a_source() -> None:
    fetched("alps", train_bicubic_x4=("1.png",))
    with pytest.raises(UsageError, match="only low-resolution"):
        find_pictures(["alps"])


def test_own_pairs_are_provided_at_the_scale_they_were_added_with(tmp_path: Path, add: Add) -> None:
    hr, lr = write_pictures(tmp_path / "big", "a.png"), write_pictures(tmp_path / "small", "a.png")
    add(hr, name="mine", lr_folder=lr, scale=2)
    [picture] = find_pictures(["mine"], scale=2, degradation="given")
    assert picture.lr_path == lr / "a.png"
    for scale, degradation in ((4, "given"), (2, "given:bicubic")):
        with pytest.raises(UsageError, match="those for x2"):
            find_pictures(["mine"], scale=scale, degradation=degradation)
