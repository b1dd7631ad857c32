"""The `old_photo` degradation follows its parameters; its mask marks where the scene is lost."""

from dataclasses import replace

import numpy as np
import pytest

from superres.degrade import degrade
from superres.degrade.kinds.old_photo import Ageing, age

AS_NEW = Ageing(
    monochrome=False,
    fading=0.0,
    yellowing=0.0,
    silvering=0.0,
    grain_levels=0.0,
    softness=0.1,
    scratches=0,
    specks=0,
    hairs=0,
    folds=0,
    seed=3,
)


@pytest.fixture(scope="module")
def rgb_hwc_u8() -> np.ndarray:
    rows, columns = np.mgrid[:120, :160]
    return np.stack((rows + 60, columns + 40, 220 - rows), axis=-1).astype(np.uint8)


def mean_rgb(rgb_hwc_u8: np.ndarray) -> np.ndarray:
    return rgb_hwc_u8.mean(axis=(0, 1))


def test_a_new_print_equals_the_picture(rgb_hwc_u8: np.ndarray) -> None:
    aged, mask = age(rgb_hwc_u8, AS_NEW)
    assert np.abs(aged.astype(int) - rgb_hwc_u8).max() <= 1
    assert not mask.any()


@pytest.mark.parametrize("mark", ["scratches", "specks", "hairs", "folds"])
def test_the_mask_marks_where_the_scene_is_lost(mark: str, rgb_hwc_u8: np.ndarray) -> None:
    lost = []
    for seed in range(5):
        aged, mask = age(rgb_hwc_u8, replace(AS_NEW, **{mark: 4}, seed=seed))
        change = np.abs(aged.astype(int) - rgb_hwc_u8).max(axis=-1)
        assert mask.shape == (120, 160)
        assert set(np.unique(mask)) <= {0, 255}
        # Beside its ridge a fold is only shading: the scene stays visible.
        shading = 0.3 * rgb_hwc_u8.max(axis=-1) if mark == "folds" else 0.125 * 255 + 1
        assert (change <= shading)[mask == 0].all()
        lost.append(np.mean(mask > 0))
        if mask.any():
            assert change[mask > 0].mean() > 20
    assert 0.0005 < np.mean(lost) < 0.2


def test_yellowing_reduces_blue_and_is_strongest_at_the_edges(rgb_hwc_u8: np.ndarray) -> None:
    white = np.full_like(rgb_hwc_u8, 240)
    aged, _ = age(white, replace(AS_NEW, yellowing=1.0))
    red, green, blue = mean_rgb(aged)
    assert red > green > blue
    assert blue < 200
    assert aged[:4].mean() < aged[50:70, 60:100].mean()


def test_fading_dyes_lighten_the_shadows_and_cyan_fades_first() -> None:
    dark = np.full((40, 40, 3), 40, np.uint8)
    red, green, blue = mean_rgb(age(dark, replace(AS_NEW, fading=0.8))[0])
    assert min(red, green, blue) > 50
    assert red > max(green, blue)


def test_silver_fades_to_brown(rgb_hwc_u8: np.ndarray) -> None:
    fresh, _ = age(rgb_hwc_u8, replace(AS_NEW, monochrome=True))
    assert np.ptp(fresh.astype(int), axis=-1).max() == 0
    red, green, blue = mean_rgb(age(rgb_hwc_u8, replace(AS_NEW, monochrome=True, fading=0.8))[0])
    assert red > green > blue


def test_silver_mirroring_is_in_the_shadows_at_the_edges() -> None:
    dark = np.full((120, 160, 3), 30, np.uint8)
    aged = age(dark, replace(AS_NEW, monochrome=True, silvering=0.9))[0].astype(int)
    assert aged[:6].mean() > aged[50:70, 60:100].mean() + 10
    assert aged[:6, :, 2].mean() > aged[:6, :, 0].mean()
    light = np.full((120, 160, 3), 230, np.uint8)
    assert np.abs(age(light, replace(AS_NEW, silvering=0.9))[0].astype(int) - 230).max() <= 1


def test_grain_has_its_strength_and_is_equal_in_all_channels() -> None:
    grey = np.full((96, 96, 3), 128, np.uint8)
    aged = age(grey, replace(AS_NEW, grain_levels=8.0))[0].astype(int)
    assert 6 < aged.std() < 10
    assert np.ptp(aged, axis=-1).max() == 0


def test_a_degraded_photo_has_its_mask_and_parameters(rgb_hwc_u8: np.ndarray) -> None:
    degraded = degrade(rgb_hwc_u8, kind="old_photo", scale=2, seed=1)
    again, mask = age(
        degrade(rgb_hwc_u8, kind="bicubic", scale=2, seed=1).lr_hwc_u8,
        Ageing(**degraded.parameters),
    )
    assert np.array_equal(again, degraded.lr_hwc_u8)
    assert np.array_equal(mask, degraded.damage_hw_u8)
    assert mask.shape == (60, 80)
