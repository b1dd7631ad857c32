"""Verification finds every change of a dataset, and contact sheets show its pairs."""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from superres.dataset.manifest import (
    MANIFEST_NAME,
    ManifestRow,
    read_info,
    read_manifest,
    write_info,
    write_manifest,
)
from superres.image.codecs import Picture, read, write
from training.data.cli import data
from training.data.packs.packs import PACK_NAME
from training.data.pairs.build import build
from training.data.pairs.verify import verify
from training.data.shards.plan import PairRecipe, make_plan
from training.data.sources.picture import SourcePicture

Change = Callable[[Path, list[ManifestRow]], object]


def scene(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture(scope="module")
def valid_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid dataset of old photographs of 48x64: two training pictures, two draws each."""
    folder = tmp_path_factory.mktemp("valid")
    pictures = []
    for seed in range(3):
        path = folder / "in" / f"{seed}.png"
        write(path, Picture(rgb_hwc=scene(seed)))
        split = "train" if seed else "validation"
        pictures.append(
            SourcePicture(
                name=path.stem,
                path=path,
                split=split,
                source="in",
                licence="CC0-1.0",
                author="nobody",
            )
        )
    recipe = PairRecipe(scale=1, degradation="old_photo", draws=2)
    return build(make_plan(pictures, recipe, folder)).path


@pytest.fixture
def dataset(valid_dataset: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(valid_dataset, tmp_path / valid_dataset.name))


def test_a_valid_dataset_has_no_findings(valid_dataset: Path) -> None:
    verified = verify(valid_dataset, workers=2)
    assert verified.findings == ()
    assert (verified.pictures, verified.pairs, verified.reproduced) == (3, 5, 5)
    assert verify(valid_dataset, sample=1).reproduced in (1, 2)


def set_row(dataset: Path, rows: list[ManifestRow], index: int, **values: object) -> None:
    rows[index] = replace(rows[index], **values)  # type: ignore[arg-type]
    write_manifest(dataset / MANIFEST_NAME, rows)


def flip_pixel(dataset: Path, path: str) -> None:
    rgb_hwc = read(dataset / path).rgb_hwc.copy()
    rgb_hwc[0, 0, 0] ^= 255
    write(dataset / path, Picture(rgb_hwc=rgb_hwc))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def leak(dataset: Path, rows: list[ManifestRow]) -> None:
    holdout = next(row for row in rows if row.split == "validation")
    shutil.copy(dataset / holdout.hr_path, dataset / rows[0].hr_path)


def forget_licence(dataset: Path, rows: list[ManifestRow]) -> None:
    set_row(dataset, rows, 0, licence="")
    info = read_info(dataset)
    write_info(dataset, info.model_copy(update={"licences": ["CC0-1.0"]}))


CHANGES: dict[str, tuple[Change, str]] = {
    "hr": (lambda d, rows: flip_pixel(d, rows[0].hr_path), "not the file whose sha256"),
    "lr": (lambda d, rows: flip_pixel(d, rows[0].lr_path), "differs from old_photo"),
    "cut": (
        lambda d, rows: (d / rows[0].lr_path).write_bytes(b"\x89PNG"),
        "not a supported picture",
    ),
    "mask": (lambda d, rows: flip_pixel(d, rows[0].mask_path), "differs from the damage mask"),
    "pack": (lambda d, rows: flip_byte(d / PACK_NAME), "in the pack are not those"),
    "short pack": (lambda d, rows: (d / PACK_NAME).write_bytes(b"x"), "bytes instead of"),
    "index": (lambda d, rows: append(d / "packs/train.json"), "its sha256 is not"),
    "missing": (lambda d, rows: (d / rows[1].lr_path).unlink(), "is missing"),
    "extra": (lambda d, rows: (d / "pairs/more.png").write_bytes(b"x"), "does not belong"),
    "size": (lambda d, rows: set_row(d, rows, 0, width=99), "is 64x48, not 99x48"),
    "seed": (lambda d, rows: set_row(d, rows, 0, seed=1), "seed is 1"),
    "row": (lambda d, rows: write_manifest(d / MANIFEST_NAME, rows[1:]), "neither in the manifest"),
    "stranger": (lambda d, rows: set_row(d, rows, 0, name="x"), "is in the manifest, not in"),
    "content": (lambda d, rows: append(d / "content.json"), "and not the id"),
    "unread": (lambda d, rows: (d / "content.json").write_text("{"), "cannot be read"),
    "parameters": (lambda d, rows: set_row(d, rows, 0, parameters="{}"), "its parameters"),
    "no mask": (lambda d, rows: set_row(d, rows, 0, mask_path=""), "its mask is missing"),
    "leak": (leak, "must not be in this dataset: the same picture as 0 (validation)"),
    "licence": (forget_licence, "has no licence"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found(change: str, dataset: Path) -> None:
    damage, problem = CHANGES[change]
    damage(dataset, read_manifest(dataset))
    sample = None if change in ("lr", "mask", "parameters", "no mask") else 1
    findings = verify(dataset, sample=sample).findings
    assert any(problem in finding.problem for finding in findings), findings


def test_a_leak_from_a_folder_is_found(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "bench" / "b.png", Picture(rgb_hwc=scene(2)))
    arguments = ["verify", str(dataset), "--against", str(tmp_path / "bench"), "--workers", "1"]
    assert data([*arguments, "--json"]) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [finding["what"] for finding in result["findings"]] == ["2"]
    assert "bench/b.png (benchmark)" in result["findings"][0]["problem"]


def test_a_sheet_shows_pairs_with_their_masks(valid_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert data(["show", str(valid_dataset), "--out", str(out), "--count", "2"]) == 0
    sheet = read(out).rgb_hwc
    shown = 0
    for row in read_manifest(valid_dataset):
        hr_hwc, mask_hwc = (
            read(valid_dataset / path).rgb_hwc for path in (row.hr_path, row.mask_path)
        )
        shown += contains_crop(sheet, hr_hwc, left=24) and contains_crop(
            sheet, mask_hwc, left=24 + 2 * (48 + 12)
        )
    assert shown >= 2


def contains_crop(sheet: np.ndarray, hwc: np.ndarray, left: int) -> bool:
    """Whether a 48-pixel square of the picture is in the sheet at that column."""
    column = sheet[:, left : left + 48]
    return any(
        np.array_equal(column[top : top + 48], hwc[:, start : start + 48])
        for top in range(len(sheet) - 48)
        for start in (0, 8, 16)
    )


def test_a_sheet_of_the_validation_split_is_drawn(valid_dataset: Path, tmp_path: Path) -> None:
    assert (
        data(
            ["show", str(valid_dataset), "--out", str(tmp_path / "v.jpg"), "--split", "validation"]
        )
        == 0
    )
    assert read(tmp_path / "v.jpg").width > 400


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "x", "--count", "0"],
        ["verify", "x", "--sample", "a"],
        ["plan", "x", "--split-every", "-3"],
    ],
)
def test_counts_are_whole_numbers(arguments: list[str]) -> None:
    with pytest.raises((SystemExit, argparse.ArgumentTypeError)):
        data(arguments)
