"""MATLAB's `imresize` with the cubic kernel, bit-exact on 8-bit pictures."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.common.errors import SharplineError

Array = NDArray[Any]

KERNEL_WIDTH = 4.0  # of Keys' cubic, in input samples
BLOCK_VALUES = 32_768  # 256 KiB of doubles
# For these factors the kernel's weights are multiples of 2^-16.
EXACT_FACTORS = (2, 4, 8)


def imresize(
    hwc: Array, *, scale: float | None = None, size: tuple[int, int] | None = None
) -> Array:
    """Resample a picture with Keys' cubic (a = -0.5), with antialiasing when shrinking.

    `hwc` is (H, W) or (H, W, C); uint8 and uint16 are rounded and clipped between the two passes
    as MATLAB does, floats are not. Give a `scale` (output sides are rounded up) or an output
    `size` (height, width). Returns the same dtype. Raises SharplineError for an empty result.
    """
    height, width = hwc.shape[:2]
    if size is not None:
        out_height, out_width = size
        scales = (out_height / height, out_width / width)
    elif scale is not None:
        out_height, out_width = int(np.ceil(height * scale)), int(np.ceil(width * scale))
        scales = (scale, scale)
    else:
        raise TypeError("imresize needs a scale or a size")
    if min(out_height, out_width) < 1:
        raise SharplineError(f"a picture of {width}x{height} cannot shrink to nothing")
    lengths = (out_height, out_width)
    # MATLAB resizes the dimension with the smallest scale first, rows first if equal.
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        hwc = _resample(hwc, axis, lengths[axis], scales[axis])
    return hwc


def _resample(picture: Array, axis: int, out_length: int, scale: float) -> Array:
    if scale == 1.0:
        return picture
    rows_first = np.ascontiguousarray(picture.swapaxes(0, axis))
    factor = rows_first.shape[0] // out_length
    if picture.dtype == np.uint8 and factor in EXACT_FACTORS and scale == 1 / factor:
        resampled = _shrink_rows(rows_first, factor)
    else:
        resampled = _resample_rows(rows_first, out_length, scale)
    return np.ascontiguousarray(resampled.swapaxes(0, axis))


def _resample_rows(picture: Array, out_length: int, scale: float) -> Array:
    """Resample along the first axis in blocks of rows that fit the CPU cache."""
    dtype = np.float32 if picture.dtype == np.float32 else np.float64
    taps = [
        (index, weight.astype(dtype).reshape(-1, *[1] * (picture.ndim - 1)))
        for index, weight in _taps(picture.shape[0], out_length, scale)
    ]
    result = np.empty((out_length, *picture.shape[1:]), picture.dtype)
    step = max(1, BLOCK_VALUES // max(1, int(np.prod(picture.shape[1:]))))
    for top in range(0, out_length, step):
        rows = slice(top, top + step)
        total = np.zeros(result[rows].shape, dtype)
        part = np.empty_like(total)
        for index, weight in taps:
            np.multiply(picture[index[rows]], weight[rows], out=part)
            total += part
        result[rows] = restore_dtype(total, picture.dtype)
    return result


def _shrink_rows(picture: Array, factor: int) -> Array:
    """Shrink 8-bit rows by `factor`; bit-exact with `_resample_rows`, in half its time.

    float32 is exact here: weights have at most 16 fractional bits, and the taps are added from the
    outer ones, which are negative, inwards, so that no partial sum exceeds the final one, which is
    clipped at 255. The two taps of equal weight on both sides of the centre are added first.
    """
    values = picture.reshape(len(picture), -1)
    out_length, taps = len(picture) // factor, 4 * factor
    weights = cubic((np.arange(taps // 2) - (taps - 1) / 2) / factor) / factor
    mirror = np.concatenate((np.arange(len(picture)), np.arange(len(picture))[::-1]))
    result = np.empty((out_length, values.shape[1]), np.uint8)
    step = max(1, BLOCK_VALUES // values.shape[1])
    for top in range(0, out_length, step):
        count = min(step, out_length - top)
        first = top * factor - 3 * factor // 2
        positions = np.arange(first, first + (count + 3) * factor)
        block = values[mirror[positions % len(mirror)]].astype(np.float32)
        total = np.zeros((count, values.shape[1]), np.float32)
        for tap, weight in enumerate(weights.astype(np.float32)):
            opposite = taps - 1 - tap
            part = block[tap::factor][:count] + block[opposite::factor][:count]
            part *= weight
            total += part
        result[top : top + count] = restore_dtype(total, result.dtype)
    return result.reshape(out_length, *picture.shape[1:])


def _taps(
    in_length: int, out_length: int, scale: float
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """For each kernel tap: its input index and weight in every output sample."""
    stretch = min(scale, 1.0)
    width = KERNEL_WIDTH / stretch
    centres = (np.arange(1, out_length + 1) / scale) + 0.5 * (1 - 1 / scale)
    left = np.floor(centres - width / 2)
    positions = left[:, None] + np.arange(int(np.ceil(width)) + 2)[None, :]
    weights = stretch * cubic(stretch * (centres[:, None] - positions))
    weights /= weights.sum(axis=1, keepdims=True)
    mirror = np.concatenate((np.arange(in_length), np.arange(in_length)[::-1]))
    indices = mirror[np.mod(positions.astype(np.intp) - 1, 2 * in_length)]
    for tap in range(weights.shape[1]):
        if np.any(weights[:, tap]):
            yield indices[:, tap], weights[:, tap]


def cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel (1981, equation 15) with a = -0.5."""
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d <= 2, far, 0.0))


def restore_dtype(values: NDArray[np.floating], dtype: np.dtype) -> Array:
    """Round half up and clip into an integer dtype; floats are not rounded."""
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype, copy=False)
    top = np.iinfo(dtype).max
    return np.clip(np.floor(values + 0.5), 0, top).astype(dtype)
