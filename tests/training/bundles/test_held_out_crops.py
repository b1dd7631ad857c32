"""Crops of held-out pictures that are scored between two training steps."""

import math

import numpy as np
import pytest
import torch

from superres.evaluation.evaluate import Pair, PairSet
from superres.image.codecs import Picture
from superres.image.resize import imresize
from superres.quality import psnr
from training.bundles.held_out_crops import CROPS, HeldOutCrops

SCALE = 2
CPU = torch.device("cpu")
# Y of BT.601 has 219 levels where RGB has 255.
LEVELS_8_IN_Y = 20 * math.log10(255 / (8 * 219 / 255))


def pair(side: int, seed: int = 0) -> Pair:
    """A pair whose ground truth repeats each pixel of its input, between 40 and 200."""
    lr = np.random.default_rng(seed).integers(40, 200, (side, side + 4, 3), dtype=np.uint8)
    hr = lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    return Pair(name=str(seed), lr=Picture(rgb_hwc=lr), hr=Picture(rgb_hwc=hr))


def pairs(*sides: int) -> PairSet:
    made = [pair(side, seed) for seed, side in enumerate(sides)]
    names = tuple(each.name for each in made)
    return PairSet(dataset="d", scale=SCALE, resampler="bicubic", names=names, pairs=iter(made))


def repeat_pixels(lr_bchw: torch.Tensor) -> torch.Tensor:
    return lr_bchw.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)


def test_a_network_is_scored_by_its_mean_psnr_on_the_crops() -> None:
    crops = HeldOutCrops.of(pairs(50, 61, 40), 8, CPU)
    assert crops is not None
    assert crops.psnr(lambda lr: repeat_pixels(lr) + 8 / 255) == pytest.approx(
        LEVELS_8_IN_Y, abs=0.05
    )


def test_the_crops_are_the_centres_of_the_first_pictures() -> None:
    made = pairs(*[48] * (CROPS + 1))
    seen: list[torch.Tensor] = []
    crops = HeldOutCrops.of(made, 8, CPU)
    assert crops is not None
    crops.psnr(lambda lr: seen.append(lr) or repeat_pixels(lr))
    assert seen[0].shape == (CROPS, 3, 32, 32)
    centre = pair(48, seed=1).lr.rgb_hwc[8:40, 10:42]
    assert (seen[0][1].mul(255).round().byte().permute(1, 2, 0).numpy() == centre).all()


def test_bicubic_is_scored_on_the_same_crops() -> None:
    crops = HeldOutCrops.of(pairs(32), 8, CPU)
    assert crops is not None
    lr_hwc = pair(32).lr.rgb_hwc[:, 2:34]
    truth_hwc = lr_hwc.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    bicubic = psnr(imresize(lr_hwc, scale=SCALE), truth_hwc, pairs(32).protocol("y"))
    assert crops.bicubic_psnr == pytest.approx(bicubic)


@pytest.mark.parametrize(
    ("side", "grid", "scored"), [(31, 8, False), (47, 24, False), (48, 24, True)]
)
def test_pictures_smaller_than_a_crop_on_the_grid_are_not_used(
    side: int, grid: int, scored: bool
) -> None:
    assert (HeldOutCrops.of(pairs(side), grid, CPU) is not None) == scored


def test_without_held_out_pictures_there_are_no_crops() -> None:
    assert HeldOutCrops.of(None, 8, CPU) is None
