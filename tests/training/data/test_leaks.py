"""Training pictures that duplicate a hold-out picture, exactly, nearly or in part, are left out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from superres.analysis.fingerprint import (
    Keypoints,
    estimate_similarity,
    fingerprint,
    pictures_match,
    resize_transform,
)
from superres.dataset.manifest import REPORT_NAME
from superres.image.codecs import Picture, decode, encode, read, write
from superres.image.resize import imresize
from training.data.leaks.holdout_index import HoldoutIndex
from training.data.pairs.build import Built, build
from training.data.pairs.verify import verify
from training.data.shards.plan import PairRecipe, make_plan
from training.data.sources.picture import SourcePicture
from training.data.sources.sample import sample_pictures

RECIPE = PairRecipe(scale=2, degradation="bicubic")


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    """Small crops of real photographs: (240, 320, 3) each."""
    names = ("astronaut", "coffee", "chelsea", "motorcycle_left", "ihc")
    match = {entry.name: read(entry.path).rgb_hwc for entry in sample_pictures()}
    return {name: np.ascontiguousarray(match[name][40:280, 60:380]) for name in names}


def planted(rgb_hwc: np.ndarray, share: float, factor: float, quality: int) -> np.ndarray:
    """The centre crop of a picture, resized and compressed as JPEG."""
    height, width = (round(side * share**0.5) for side in rgb_hwc.shape[:2])
    top, left = ((rgb_hwc.shape[0] - height) // 2, (rgb_hwc.shape[1] - width) // 2)
    part = np.ascontiguousarray(rgb_hwc[top : top + height, left : left + width])
    if factor != 1:
        part = imresize(part, size=(round(height * factor), round(width * factor)))
    return decode(encode(Picture(rgb_hwc=part), "jpeg", quality=quality)).rgb_hwc


def built_from(
    folder: Path, pictures: dict[str, tuple[np.ndarray, str]], benchmarks: Sequence[Path] = ()
) -> Built:
    """A dataset of pictures by name, each with its split; `benchmarks` are reference pictures."""
    sources = []
    for name, (rgb_hwc, split) in pictures.items():
        write(folder / "in" / f"{name}.png", Picture(rgb_hwc=rgb_hwc))
        sources.append(entry(folder / "in" / f"{name}.png", split))
    references = [entry(path, "validation") for path in benchmarks]
    return build(make_plan(sources, RECIPE, folder / "root", references=references))


def entry(path: Path, split: str) -> SourcePicture:
    return SourcePicture(
        name=path.stem, path=path, split=split, source=path.parent.name, licence="x", author="y"
    )


@pytest.mark.parametrize(
    ("share", "factor", "quality"),
    [(0.3, 1.0, 70), (0.5, 0.75, 80), (1.0, 0.5, 60), (0.6, 1.5, 90)],
)
def test_a_planted_crop_is_found(
    share: float, factor: float, quality: int, photos: dict[str, np.ndarray]
) -> None:
    names = list(photos)
    index = HoldoutIndex(
        [fingerprint(photos[name]) for name in names],
        lambda position: photos[names[position]],
    )
    for position, name in enumerate(names):
        part = planted(photos[name], share, factor, quality)
        match = index.find(fingerprint(part), lambda part=part: part)
        assert match is not None, name
        assert match.position == position


def test_unrelated_photographs_do_not_match(photos: dict[str, np.ndarray]) -> None:
    for left_out in photos:
        names = [name for name in photos if name != left_out]
        index = HoldoutIndex(
            [fingerprint(photos[name]) for name in names],
            lambda position, names=names: photos[names[position]],
        )
        assert index.find(fingerprint(photos[left_out]), lambda: photos[left_out]) is None  # noqa: B023


def test_a_crop_planted_in_training_is_left_out_and_reported(
    photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    crop = planted(photos["coffee"], 0.4, 1.0, 80)
    benchmark = tmp_path / "bench" / "astro.png"
    write(benchmark, Picture(rgb_hwc=photos["astronaut"]))
    built = built_from(
        tmp_path,
        {
            "coffee": (photos["coffee"], "validation"),
            "sip": (crop, "train"),
            "suit": (planted(photos["astronaut"], 0.5, 1.0, 90), "train"),
            "held": (photos["astronaut"], "validation"),
            "cells": (photos["ihc"], "train"),
        },
        [benchmark],
    )
    duplicates = {item.name: (item.duplicate_of, item.reason) for item in built.info.left_out}
    assert set(duplicates) == {"sip", "suit", "held"}
    assert duplicates["sip"] == ("coffee", "shows the same scene as a part of coffee (validation)")
    assert duplicates["suit"][0] == duplicates["held"][0] == "bench/astro"
    assert duplicates["held"][1] == "the same picture as bench/astro (benchmark)"
    assert built.info.splits == {"train": 1, "validation": 1}
    report = (built.path / REPORT_NAME).read_text()
    assert "| sip | shows the same scene as a part of coffee (validation) | coffee |" in report


def test_the_reference_pictures_are_part_of_the_id(
    photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    pictures = {"cells": (photos["ihc"], "train")}
    write(tmp_path / "bench" / "b.png", Picture(rgb_hwc=photos["coffee"]))
    alone = built_from(tmp_path / "a", pictures)
    compared = built_from(tmp_path / "b", pictures, [tmp_path / "bench" / "b.png"])
    assert alone.info.id != compared.info.id
    assert (alone.info.compared_with, compared.info.compared_with) == (0, 1)
    assert "Compared with no benchmark" in (alone.path / REPORT_NAME).read_text()
    assert "Compared with 1 reference pictures" in (compared.path / REPORT_NAME).read_text()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_within_a_split_the_smaller_or_later_copy_is_left_out(
    split: str, photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    coffee = photos["coffee"]
    brighter = np.clip(coffee.astype(int) + 9, 0, 255).astype(np.uint8)
    pictures = {
        "a-half": (planted(coffee, 1.0, 0.5, 60), split),
        "b-whole": (coffee, split),
        "c-brighter": (brighter, split),
        "d-compressed": (planted(coffee, 1.0, 1.0, 60), split),
        "e-other": (photos["chelsea"], split),
        "f-train": (photos["ihc"], "train"),
    }
    built = built_from(tmp_path, pictures)
    reason = f"nearly the same picture as b-whole ({split})"
    assert [(item.name, item.reason, item.duplicate_of) for item in built.info.left_out] == [
        ("a-half", reason, "b-whole"),
        ("c-brighter", reason, "b-whole"),
        ("d-compressed", reason, "b-whole"),
    ]
    assert verify(built.path).findings == ()


def test_near_duplicates_in_training_stay_and_are_reported(tmp_path: Path) -> None:
    """Two views of a motorcycle: similar thumbnails, different pixels."""
    match = {entry.name: read(entry.path).rgb_hwc for entry in sample_pictures()}
    names = ("motorcycle_left", "motorcycle_right")
    built = built_from(tmp_path, {name: (match[name], "train") for name in names})
    assert [(pair.name, pair.duplicate_of) for pair in built.info.near_duplicates] == [names[::-1]]
    assert "| motorcycle_right | motorcycle_left |" in (built.path / REPORT_NAME).read_text()
    assert built.info.splits["train"] == 2


def test_a_mirrored_copy_or_part_of_a_held_out_picture_is_left_out(
    photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    benchmark = tmp_path / "bench" / "astro.png"
    write(benchmark, Picture(rgb_hwc=photos["astronaut"]))
    built = built_from(
        tmp_path,
        {
            "coffee": (photos["coffee"], "validation"),
            "cup": (np.ascontiguousarray(photos["coffee"][:, ::-1]), "train"),
            "suit": (np.ascontiguousarray(planted(photos["astronaut"], 0.5, 1, 90)[::-1]), "train"),
            "cells": (photos["ihc"], "train"),
        },
        [benchmark],
    )
    reasons = {item.name: item.reason for item in built.info.left_out}
    assert reasons == {
        "cup": "mirrored, nearly the same picture as coffee (validation)",
        "suit": "mirrored, shows the same scene as a part of bench/astro (benchmark)",
    }


def test_flat_pictures_match_only_at_the_same_level() -> None:
    grey, dark = (np.full((64, 64, 3), level, np.uint8) for level in (128, 40))
    assert pictures_match(grey, grey, resize_transform(grey, grey))
    assert not pictures_match(grey, dark, resize_transform(grey, dark))
    assert len(fingerprint(grey).descriptors) == 0


def test_a_similarity_is_estimated_despite_many_wrong_matches() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.uniform(0, 500, 20) + 1j * rng.uniform(0, 500, 20) for _ in range(2))
    first[:6] = (50, 450, 50 + 450j, 450 + 450j, 250 + 250j, 250 + 50j)
    second[:6] = 0.5j * first[:6] + (300 + 20j)
    similarity = estimate_similarity(Keypoints(first, first), Keypoints(second, second))
    assert similarity is not None
    transform, inliers = similarity
    assert inliers >= 6
    assert transform == pytest.approx(np.array([[0, -0.5, 300], [0.5, 0, 20]]), abs=1)
    assert (
        estimate_similarity(Keypoints(first[:2], first[:2]), Keypoints(second[:2], second[:2]))
        is None
    )


def test_an_inexact_transform_is_refined(photos: dict[str, np.ndarray]) -> None:
    photo = photos["coffee"]
    part = photo[40:200, 60:260]
    assert pictures_match(part, photo, np.array([[1.02, 0.02, 64], [-0.02, 1.02, 37]]))
    assert not pictures_match(part, photos["chelsea"], np.array([[1.0, 0, 60], [0, 1.0, 40]]))
