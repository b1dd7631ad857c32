"""Pairs are loaded from folders and datasets; invalid ones are refused by name."""

from pathlib import Path

import numpy as np
import pytest

from superres.common.errors import SharplineError
from superres.dataset.manifest import (
    MANIFEST_NAME,
    DatasetInfo,
    ManifestRow,
    write_info,
    write_manifest,
)
from superres.evaluation.evaluate import Pair, cropped_to, evaluate, load_pairs
from superres.image.codecs import Picture, write
from superres.model.backends import load_backend
from superres.model.upscaler import Upscaler


def blocks(seed: int) -> Picture:
    """Pixels repeated twice per side, which the test's model outputs without error."""
    small = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    return Picture(rgb_hwc=small.repeat(2, axis=0).repeat(2, axis=1))


def pair(seed: int, name: str = "pair") -> Pair:
    hr = blocks(seed)
    return Pair(name=name, lr=Picture(rgb_hwc=hr.rgb_hwc[::2, ::2]), hr=hr)


def test_a_model_off_by_known_levels_scores_as_computed(tiny_bundle, tmp_path: Path) -> None:
    write(tmp_path / "any.png", blocks(9))
    protocol = load_pairs(tmp_path, 2).protocol("rgb")
    bundle = tiny_bundle(error_levels=5)
    upscaler = Upscaler(bundle, load_backend(bundle, backend="torch", precision="fp32"))
    middle = [
        Pair(
            name=p.name,
            lr=Picture(rgb_hwc=p.lr.rgb_hwc // 2),
            hr=Picture(rgb_hwc=p.hr.rgb_hwc // 2),
        )
        for p in (pair(1), pair(2))
    ]
    for whole in (False, True):
        evaluation = evaluate(upscaler, middle, protocol, whole=whole)
        assert evaluation.psnr == pytest.approx(10 * np.log10(255**2 / 25), abs=1e-6)
        assert evaluation.bicubic_psnr < evaluation.psnr
        assert evaluation.bicubic_ssim < evaluation.ssim


def test_folders_are_cropped_to_the_scale(tmp_path: Path) -> None:
    odd = np.random.default_rng(3).integers(0, 256, (41, 30, 3), dtype=np.uint8)
    write(tmp_path / "odd.png", Picture(rgb_hwc=odd))
    pair_set = load_pairs(tmp_path, 4)
    (only,) = pair_set.pairs
    assert (only.hr.height, only.hr.width) == (40, 28)
    assert (only.lr.height, only.lr.width) == (10, 7)
    assert pair_set.names == ("odd",)


def test_wrong_inputs_are_refused(tiny_bundle, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    upscaler = Upscaler(bundle, load_backend(bundle, backend="torch"))
    with pytest.raises(SharplineError, match="no pictures"):
        load_pairs(tmp_path, 2)
    write(tmp_path / "a.png", blocks(1))
    pair_set = load_pairs(tmp_path, 2)
    with pytest.raises(SharplineError, match="channel"):
        pair_set.protocol("cmyk")
    protocol = pair_set.protocol("y")
    with pytest.raises(SharplineError, match="no picture to score"):
        evaluate(upscaler, [], protocol)
    uneven = Pair(name="uneven", lr=pair(1).lr, hr=Picture(rgb_hwc=pair(1).hr.rgb_hwc[2:]))
    with pytest.raises(SharplineError, match="uneven"):
        evaluate(upscaler, [uneven], protocol)
    with pytest.raises(SharplineError, match="too small"):
        cropped_to(Picture(rgb_hwc=np.zeros((3, 9, 3), np.uint8), name="thin"), 4)


def test_a_picture_degraded_twice_gives_two_pairs_with_distinct_names(
    tmp_path: Path,
) -> None:
    for folder_name in ("HR/a", "LR/a", "LR-2/a"):
        pixels = pair(1).hr if folder_name.startswith("HR") else pair(1).lr
        write(tmp_path / f"pairs/validation/{folder_name}.png", pixels)
    rows = [
        ManifestRow(
            split="validation", name="a", draw=draw, hr_path="pairs/validation/HR/a.png",
            lr_path=f"pairs/validation/{folder}/a.png", hr_sha256="", lr_sha256="", hr_bytes=0,
            lr_bytes=0, width=48, height=40, scale=2, degradation="bsrgan", parameters="{}",
            seed=draw, source="mine", licence="CC0-1.0", author="", phash="",
        )
        for draw, folder in ((1, "LR"), (2, "LR-2"))
    ]  # fmt: skip
    write_manifest(tmp_path / MANIFEST_NAME, rows)
    info = DatasetInfo(
        id="0123456789abcdef", source="mine", scale=2, degradation="bsrgan",
        splits={"validation": 2}, licences=[], left_out=[], reference={}, pack_sha256="",
    )  # fmt: skip
    write_info(tmp_path, info)
    pair_set = load_pairs(tmp_path, 2)
    assert pair_set.names == tuple(each.name for each in pair_set.pairs) == ("a", "a #2")
    with pytest.raises(SharplineError, match="for scale 2, not 4"):
        load_pairs(tmp_path, 4)
    with pytest.raises(SharplineError, match="no pictures in its train split"):
        load_pairs(tmp_path, 2, "train")
