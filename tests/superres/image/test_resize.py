"""The resampler equals MATLAB's and keeps flat pictures, dtypes and ranges."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from superres.common.errors import SharplineError
from superres.image.codecs import read
from superres.image.resize import (
    EXACT_FACTORS,
    _resample_rows,
    _shrink_rows,
    imresize,
    restore_dtype,
)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_set5_is_bit_exact(reference_data: Path, scale: int) -> None:
    set5 = reference_data / "data" / "set5"
    names = [path.stem for path in sorted((set5 / "HR").glob("*.png"))]
    assert len(names) == 5
    for name in names:
        hr = read(set5 / "HR" / f"{name}.png").rgb_hwc
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        lr = read(set5 / "LR_bicubic" / f"X{scale}" / f"{name}x{scale}.png").rgb_hwc
        np.testing.assert_array_equal(imresize(hr, scale=1 / scale), lr)


@given(
    factor=st.sampled_from(EXACT_FACTORS),
    height=st.integers(1, 9),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
)
def test_fast_shrinking_is_bit_exact(
    factor: int, height: int, width: int, seed: int, extreme: bool
) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height * factor, width * factor, 3), dtype=np.uint8)
    if extreme:
        picture = np.where(picture > 127, 255, 0).astype(np.uint8)
    expected = _resample_rows(picture, height, 1 / factor)
    np.testing.assert_array_equal(_shrink_rows(picture, factor), expected)


def test_values_computed_by_hand() -> None:
    """Doubling a row: each sample has four taps at distances 1.75, 0.75, 0.25 and 1.25."""
    row = np.array([[0, 100, 200, 50]], np.uint8)
    weights = [-0.0703125, 0.8671875, 0.2265625, -0.0234375]
    result = imresize(row, size=(1, 8))[0]
    assert result[3] == np.floor(np.dot(weights, [0, 100, 200, 50]) + 0.5)
    assert result[2] == np.floor(np.dot(weights[::-1], [0, 0, 100, 200]) + 0.5)


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    value=st.integers(0, 255),
    scale=st.sampled_from([0.25, 0.3, 0.5, 0.7, 2, 3, 4]),
)
def test_flat_pictures_stay_flat(height: int, width: int, value: int, scale: float) -> None:
    result = imresize(np.full((height, width, 3), value, np.uint8), scale=scale)
    assert result.shape == (int(np.ceil(height * scale)), int(np.ceil(width * scale)), 3)
    assert (result == value).all()


@given(
    length=st.integers(1, 12),
    out_length=st.integers(1, 12),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    seed=st.integers(0, 2**32 - 1),
)
@example(length=8, out_length=4, dtype=np.uint8, seed=0)
@example(length=8, out_length=4, dtype=np.uint16, seed=0)
def test_integers_are_the_rounded_floats(length: int, out_length: int, dtype, seed: int) -> None:
    top = np.iinfo(dtype).max
    picture = np.random.default_rng(seed).integers(0, top + 1, (length, 5, 3)).astype(dtype)
    exact = imresize(picture.astype(np.float64), size=(out_length, 5))
    expected = np.clip(np.floor(exact + 0.5), 0, top)
    np.testing.assert_array_equal(imresize(picture, size=(out_length, 5)), expected)


def test_the_side_with_the_smaller_factor_is_resampled_first() -> None:
    """Rounding between the two passes shows their order; rows are first for equal factors."""
    tall = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    wide = tall.swapaxes(0, 1)
    rows_first = imresize(imresize(tall, size=(9, 16)), size=(9, 20))
    np.testing.assert_array_equal(imresize(tall, size=(9, 20)), rows_first)
    np.testing.assert_array_equal(imresize(wide, size=(20, 9)), rows_first.swapaxes(0, 1))
    columns_first = imresize(imresize(tall, size=(24, 20)), size=(9, 20))
    assert (rows_first != columns_first).any()


def test_a_size_and_its_factor_give_the_same_picture() -> None:
    picture = np.random.default_rng(0).random((6, 10, 3))
    np.testing.assert_array_equal(imresize(picture, size=(15, 25)), imresize(picture, scale=2.5))


def test_a_factor_that_keeps_the_rounded_up_size_still_resamples() -> None:
    picture = np.random.default_rng(0).random((3, 3))
    assert imresize(picture, scale=0.9).shape == picture.shape
    assert not np.allclose(imresize(picture, scale=0.9), picture, atol=1e-3)


def test_double_precision_is_kept() -> None:
    picture = np.full((4, 4), 1 / 3)
    np.testing.assert_allclose(imresize(picture, scale=1.7), 1 / 3, rtol=1e-14)


def test_dtypes_are_kept_and_integers_clipped() -> None:
    edge = np.zeros((8, 8, 3))
    edge[:, 4:] = 1.0
    for dtype, top in ((np.uint8, 255), (np.uint16, 65_535)):
        result = imresize((edge * top).astype(dtype), scale=4)
        assert result.dtype == dtype
        assert result.max() == top
    floats = imresize(edge.astype(np.float32), scale=4)
    assert floats.dtype == np.float32
    assert floats.max() > 1.0, "floats keep the overshoot"


def test_values_are_rounded_half_up_and_clipped_in_integers_only() -> None:
    values = np.array([-3.0, 0.49, 0.5, 254.5, 300.0])
    for dtype, expected in ((np.uint8, [0, 0, 1, 255, 255]), (np.uint16, [0, 0, 1, 255, 300])):
        restored = restore_dtype(values, np.dtype(dtype))
        assert restored.dtype == dtype
        assert restored.tolist() == expected
    restored = restore_dtype(values, np.dtype(np.float32))
    assert restored.dtype == np.float32
    np.testing.assert_array_equal(restored, values.astype(np.float32))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(SharplineError, match="nothing"):
        imresize(np.zeros((4, 4, 3), np.uint8), size=(0, 4))
    with pytest.raises(TypeError, match="a scale or a size"):
        imresize(np.zeros((4, 4, 3), np.uint8))
