"""The embedded source is fixed; folders are split by a rule."""

from pathlib import Path

import numpy as np
import pytest

from superres.errors import SharplineError, UsageError
from superres.image import Picture, read, write
from training.data import sources
from training.data.sources import SAMPLE_ENTRIES, find_pictures, sample_pictures


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


def test_another_wheel_with_other_pictures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = sources.SampleEntry(
        file="coffee.png", sha256="0" * 64, split="train", licence="CC0-1.0", author="someone"
    )
    monkeypatch.setattr(sources, "SAMPLE_ENTRIES", (changed,))
    with pytest.raises(SharplineError, match=r"coffee\.png"):
        sample_pictures()


def test_every_nth_picture_of_a_folder_is_held_out(pictures: Path) -> None:
    found = find_pictures([str(pictures)], split_every=3)
    assert [picture.split for picture in found] == ["train", "train", "validation"] * 2
    assert all(picture.licence == "unstated" for picture in found)


def test_without_a_rule_nothing_is_held_out(pictures: Path) -> None:
    assert {picture.split for picture in find_pictures([str(pictures)])} == {"train"}


def test_a_licence_can_be_stated_per_folder(pictures: Path, tmp_path: Path) -> None:
    write(tmp_path / "shop" / "a.png", Picture(rgb_hwc=np.zeros((64, 64, 3), np.uint8)))
    found = find_pictures(
        [str(pictures), str(tmp_path / "shop")], licences={"shop": "owned", "": "CC0-1.0"}
    )
    assert {picture.source: picture.licence for picture in found} == {
        "garden": "CC0-1.0",
        "shop": "owned",
    }


def test_a_licence_for_a_folder_that_is_no_source_is_refused(pictures: Path) -> None:
    with pytest.raises(UsageError, match="gardn"):
        find_pictures([str(pictures)], licences={"gardn": "CC0-1.0"})


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    picture = Picture(rgb_hwc=np.zeros((64, 64, 3), np.uint8))
    for name in ("a.png", "a.jpg"):
        write(tmp_path / "shop" / name, picture)
    names = [found.name for found in find_pictures([str(tmp_path / "shop")])]
    assert names == ["shop-a", "shop-a-2"]


@pytest.mark.parametrize("source", ["smaple", "empty"])
def test_a_source_that_is_none_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=source):
        find_pictures([source])
