"""Each feature rises with the damage it measures."""

import numpy as np
import pytest
from scipy import ndimage

from superres.analysis.degradation_features import (
    CROP_SIDE,
    FEATURES,
    SUMMARY,
    examine,
    measure,
    summarise,
)
from superres.degrade.jpeg import compress

Pixels = np.ndarray


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    """A real photograph at the size of a low-resolution input."""
    skimage = pytest.importorskip("skimage.data")
    from superres.image.resize import imresize

    return imresize(skimage.astronaut(), scale=0.5)


def noisy(picture: Pixels, deviation: float) -> Pixels:
    rng = np.random.default_rng(0)
    return (picture + rng.normal(0, deviation, picture.shape)).clip(0, 255).astype(np.uint8)


def test_noise_is_near_its_deviation() -> None:
    flat = np.full((128, 128, 3), 128, np.uint8)
    one_channel = np.sqrt(0.299**2 + 0.587**2 + 0.114**2)  # luma of independent channels
    for deviation in (2.0, 5.0, 12.0):
        noise = measure(noisy(flat, deviation))["noise"]
        assert noise == pytest.approx(deviation * one_channel, rel=0.1)


def test_noise_rises_on_a_photograph(photograph: Pixels) -> None:
    values = [measure(noisy(photograph, deviation))["noise"] for deviation in (0, 4, 8, 16)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 5


def test_blur_rises_with_blur(photograph: Pixels) -> None:
    values = [
        measure(ndimage.gaussian_filter(photograph, (sigma, sigma, 0)))["blur"]
        for sigma in (0, 0.6, 1.2, 2.4)
    ]
    assert values == sorted(values)
    assert 0 <= values[0] < values[-1] <= 1
    assert values[-1] > values[0] + 0.1


def test_blockiness_rises_with_compression(photograph: Pixels) -> None:
    values = [
        measure(photograph)["blockiness"],
        *(measure(compress(photograph, quality))["blockiness"] for quality in (85, 50, 20)),
    ]
    assert values == sorted(values)
    assert values[0] < 1.2
    assert values[-1] > 1.4


def test_blockiness_is_found_at_any_phase(photograph: Pixels) -> None:
    damaged = compress(photograph, 30)
    shifted = measure(damaged[3:, 5:])["blockiness"]
    assert shifted == pytest.approx(measure(damaged)["blockiness"], rel=0.1)


@pytest.mark.parametrize("quality", [15, 40, 60, 85])
def test_jpeg_quality_is_estimated_from_the_pixels(photograph: Pixels, quality: int) -> None:
    damaged = compress(photograph, quality)
    assert examine(damaged)["jpeg_quality"] == pytest.approx(quality, abs=3)
    assert examine(damaged[3:, 5:])["jpeg_quality"] == pytest.approx(quality, abs=3)


def test_the_quality_is_that_of_libjpegs_rounded_tables(photograph: Pixels) -> None:
    """libjpeg rounds its percentage down, which changes a step of quality 39 by one."""
    assert examine(compress(photograph, 39))["jpeg_quality"] == 39


def test_pictures_without_jpeg_traces_have_quality_100(photograph: Pixels) -> None:
    assert examine(photograph)["jpeg_quality"] == 100
    assert examine(noisy(photograph, 10))["jpeg_quality"] == 100
    assert examine(np.zeros((64, 64, 3), np.uint8))["jpeg_quality"] == 100


def test_the_noise_floor_ignores_texture(photograph: Pixels) -> None:
    texture = photograph.copy()
    grain = np.random.default_rng(1).integers(0, 256, texture.shape, dtype=np.uint8)
    texture[: texture.shape[0] // 2] = grain[: texture.shape[0] // 2]
    assert examine(texture)["noise"] > 10
    assert examine(texture)["noise_floor"] < 5
    assert examine(noisy(photograph, 12))["noise_floor"] > 5.5


@pytest.mark.parametrize(("level", "brightness"), [(0, 0.0), (128, 0.502), (255, 1.0)])
def test_a_flat_picture(level: int, brightness: float) -> None:
    values = measure(np.full((64, 48, 3), level, np.uint8))
    assert values == pytest.approx(
        {"noise": 0, "blur": 0, "blockiness": 1, "megapixels": 0.003072, "brightness": brightness},
        abs=1e-3,
    )


def test_16_bit_pictures_measure_as_8_bit(photograph: Pixels) -> None:
    assert measure(photograph.astype(np.uint16) * 257) == pytest.approx(
        measure(photograph), rel=1e-3
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 2), (9, 23), (CROP_SIDE + 40, 30)])
def test_every_feature_is_finite_at_any_size(size: tuple[int, int]) -> None:
    values = examine(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert set(values) == {*FEATURES, "jpeg_quality", "noise_floor"}
    assert all(np.isfinite(value) for value in values.values())


def test_a_summary_has_every_feature() -> None:
    shades = (0, 128, 255)
    summary = summarise([measure(np.full((32, 32, 3), shade, np.uint8)) for shade in shades])
    assert set(summary) == set(FEATURES)
    assert set(summary["brightness"]) == set(SUMMARY)
    assert summary["brightness"]["p50"] == pytest.approx(128 / 255, abs=1e-5)
    assert summary["brightness"]["mean"] == pytest.approx(sum(shades) / 765, abs=1e-5)
    assert summarise([]) == {}
