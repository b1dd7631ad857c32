"""A degradation is a function of pixels, kind, scale and seed."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from superres.degrade import JPEG_QUALITIES, KINDS, degrade
from superres.errors import UsageError
from superres.resize import imresize


@pytest.fixture
def hr_hwc_u8() -> np.ndarray:
    rows, columns = np.mgrid[:96, :120]
    waves = 127 + 100 * np.sin(rows / 7)[..., None] * np.cos(columns[..., None] / (5, 8, 11))
    return waves.astype(np.uint8)


def test_bicubic_is_the_resampler_alone(hr_hwc_u8: np.ndarray) -> None:
    for scale in (2, 3, 4):
        made = degrade(hr_hwc_u8, kind="bicubic", scale=scale, seed=1)
        assert_array_equal(made.lr_hwc_u8, imresize(hr_hwc_u8, scale=1 / scale))
        assert made.parameters == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_everything(kind: str, hr_hwc_u8: np.ndarray) -> None:
    first = degrade(hr_hwc_u8, kind=kind, scale=2, seed=3)
    again = degrade(hr_hwc_u8, kind=kind, scale=2, seed=3)
    assert_array_equal(first.lr_hwc_u8, again.lr_hwc_u8)
    assert first.parameters == again.parameters


def test_jpeg_qualities_cover_their_range_and_leave_damage(hr_hwc_u8: np.ndarray) -> None:
    clean = degrade(hr_hwc_u8, kind="bicubic", scale=2, seed=0).lr_hwc_u8
    qualities = set()
    for seed in range(60):
        made = degrade(hr_hwc_u8, kind="bicubic_jpeg", scale=2, seed=seed)
        qualities.add(made.parameters["jpeg_quality"])
        assert made.lr_hwc_u8.shape == clean.shape
        assert 0 < np.abs(made.lr_hwc_u8.astype(int) - clean).mean() < 15
    assert JPEG_QUALITIES[0] <= min(qualities) < 36
    assert 54 < max(qualities) <= JPEG_QUALITIES[1]


def test_an_unknown_kind_lists_the_known_ones(hr_hwc_u8: np.ndarray) -> None:
    with pytest.raises(UsageError, match="bicubic, bicubic_jpeg"):
        degrade(hr_hwc_u8, kind="jpg", scale=2, seed=0)


def test_sides_must_fit_the_scale(hr_hwc_u8: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not divisible by 4"):
        degrade(hr_hwc_u8[:95], kind="bicubic", scale=4, seed=0)
