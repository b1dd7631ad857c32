"""JPEG compression: tables and subsampling of real encoders, and a simulation of libjpeg."""

import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from superres.degrade import degrade
from superres.degrade.jpeg import Subsampling, compress, compress_as, simulate
from superres.degrade.kinds.jpeg import SUBSAMPLINGS
from superres.image.jpeg_tables import CHROMA_TABLE, LUMA_TABLE, scaled_table


@pytest.fixture(scope="module")
def rgb_hwc_u8() -> np.ndarray:
    """Colour with edges and texture, and sides that are not multiples of a block."""
    rows, columns = np.mgrid[:93, :117]
    texture = np.random.default_rng(0).normal(0, 6, (93, 117, 3))
    colours = 120 + 80 * np.stack([np.sin(rows / a + columns / 9) for a in (7, 11, 17)], -1)
    colours[20:60, 30:70] = (200, 60, 40)
    return np.clip(colours + texture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95])
def test_tables_equal_libjpegs(quality: int, rgb_hwc_u8: np.ndarray) -> None:
    file = io.BytesIO()
    Image.fromarray(rgb_hwc_u8).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization
    for index, table in enumerate((LUMA_TABLE, CHROMA_TABLE)):
        assert_array_equal(np.reshape(tables[index], (8, 8)), scaled_table(table, quality))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [10, 40, 75, 95])
def test_simulated_jpeg_equals_the_encoders(
    quality: int, subsampling: Subsampling, rgb_hwc_u8: np.ndarray
) -> None:
    """Within a level on average: the encoder's DCT is in integers, the simulation's in floats."""
    real = compress_as(rgb_hwc_u8, subsampling, quality=quality).astype(float)
    batch = np.moveaxis(rgb_hwc_u8, -1, 0)[None].astype(np.float32) / 255
    simulated = np.moveaxis(simulate(batch, [quality], subsampling)[0], 0, -1) * 255
    damage = np.abs(real - rgb_hwc_u8).mean()
    assert np.abs(simulated - real).mean() < min(0.8, 0.3 * damage)
    assert np.mean(np.abs(simulated - real) > 1.5) < 0.2
    assert np.abs(simulated - real)[-8:].mean() < 0.9, "padding at the border"


def test_each_subsampling_differs_and_the_default_is_420(
    rgb_hwc_u8: np.ndarray,
) -> None:
    decoded = {name: compress_as(rgb_hwc_u8, name, quality=60) for name in SUBSAMPLINGS}
    assert_array_equal(decoded["4:2:0"], compress(rgb_hwc_u8, 60))
    errors = {
        name: np.abs(pixels.astype(int) - rgb_hwc_u8).mean() for name, pixels in decoded.items()
    }
    assert errors["4:4:4"] < errors["4:2:2"] < errors["4:2:0"]


def test_random_jpegs_have_every_subsampling_and_both_kinds_of_tables(
    rgb_hwc_u8: np.ndarray,
) -> None:
    parameter_sets = [
        degrade(rgb_hwc_u8[:32, :32], kind="jpeg", scale=1, seed=seed).parameters
        for seed in range(80)
    ]
    assert {parameters["subsampling"] for parameters in parameter_sets} == set(SUBSAMPLINGS)
    photoshop = [parameters for parameters in parameter_sets if "photoshop" in parameters]
    assert 3 <= len(photoshop) <= 25
    assert all(
        ("quality" in parameters) != ("photoshop" in parameters) for parameters in parameter_sets
    )
    qualities = [parameters["quality"] for parameters in parameter_sets if "quality" in parameters]
    assert min(qualities) < 20
    assert max(qualities) > 85
