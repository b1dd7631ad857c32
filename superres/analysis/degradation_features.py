"""Cheap numeric features of a picture's degradation; no pixels are kept.

Training stores the distribution of the features over its low-resolution pictures, serving compares
live pictures with it (drift), and `superres.analysis.model_selection` uses `examine`. Every
function takes RGB (H, W, 3) uint8 or uint16 and works on a centre crop of at most CROP_SIDE pixels
a side, which bounds the cost of large pictures.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from superres.image.crop import center_crop
from superres.image.dct import orthonormal_dct
from superres.image.jpeg_tables import LUMA_TABLE, scaled_table

Luma = npt.NDArray[np.float32]

CROP_SIDE = 1024
MAX_BLOCKS = 2048  # more do not improve the estimate of the JPEG quality
NO_JPEG = 100.0
# The lowest frequencies of an 8x8 block without the mean, by row and column.
LOW_FREQUENCIES = (
    (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0),
)  # fmt: skip
DCT = orthonormal_dct(8).astype(np.float32)
SUMMARY = ("mean", "std", "p05", "p50", "p95")


def measure(rgb_hwc: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> dict[str, float]:
    """The value of every feature in FEATURES for one picture of any size.

    noise: standard deviation in 8-bit levels; blur: 0 sharp to 1 blurred; blockiness: 1 none,
    higher if steps are larger on an 8-pixel grid; megapixels; brightness: 0 black to 1 white.
    """
    luma = _luma_levels(rgb_hwc)
    values = {name: feature(luma) for name, feature in _OF_LUMA.items()}
    values["megapixels"] = rgb_hwc.shape[0] * rgb_hwc.shape[1] / 1e6
    return {name: float(values[name]) for name in FEATURES}


def examine(rgb_hwc: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> dict[str, float]:
    """Every feature of `measure`, and two that separate damage from scene content.

    jpeg_quality: 1 to 96 of the last JPEG compression that left traces, 100 without traces;
    noise_floor: noise as in `measure`, but of the smoothest blocks, so that texture is ignored.
    """
    luma = _luma_levels(rgb_hwc)
    own = {"jpeg_quality": _jpeg_quality(luma), "noise_floor": _noise_floor(luma)}
    return {**measure(rgb_hwc), **own}


def summarise(measurements: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, deviation and percentiles of every feature over the pictures, keyed as in SUMMARY."""
    if not measurements:
        return {}
    summary: dict[str, dict[str, float]] = {}
    for name in FEATURES:
        values = np.array([measured[name] for measured in measurements], dtype=np.float64)
        p05, p50, p95 = np.percentile(values, [5, 50, 95])
        statistics = (values.mean(), values.std(), p05, p50, p95)
        summary[name] = {
            key: round(float(value), 6) for key, value in zip(SUMMARY, statistics, strict=True)
        }
    return summary


def _luma_levels(rgb_hwc: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Luma:
    """BT.601 luma of the centre crop, in 8-bit levels 0 to 255."""
    # Aligned to 8 pixels, so that the crop keeps the phase of the JPEG grid.
    crop = center_crop(rgb_hwc, CROP_SIDE, multiple=8).astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    if rgb_hwc.dtype == np.uint16:
        weights = weights / np.float32(257.0)
    return crop @ weights


def _noise(luma: Luma) -> float:
    """Donoho's robust deviation: the median absolute diagonal Haar coefficient over 0.6745."""
    height, width = luma.shape[0] // 2 * 2, luma.shape[1] // 2 * 2
    if height == 0 or width == 0:
        return 0.0
    return float(np.median(np.abs(_diagonal_detail(luma)))) / 0.6745


def _diagonal_detail(luma: Luma) -> Luma:
    """The diagonal Haar coefficients, at half the size."""
    even = luma[: luma.shape[0] // 2 * 2, : luma.shape[1] // 2 * 2]
    detail = even[::2, ::2] - even[1::2, ::2] - even[::2, 1::2] + even[1::2, 1::2]
    return detail / np.float32(2)


def _noise_floor(luma: Luma) -> float:
    """The deviation of `_noise` in blocks of 16 pixels, at the quantile 1/6.

    Blocks near black or white are excluded: clipping hides the noise there.
    """
    side = 16
    blocks = _blocks(luma, side)
    if len(blocks) < 4:
        return _noise(luma)
    mean = blocks.mean(axis=(1, 2))
    inside = (mean > 12) & (mean < 243)
    detail = np.abs(_blocks(_diagonal_detail(luma), side // 2))
    deviations = np.median(detail, axis=(1, 2)) / 0.6745
    return float(np.quantile(deviations[inside] if inside.sum() >= 4 else deviations, 1 / 6))


def _blocks(luma: Luma, side: int) -> Luma:
    """Whole squares of `side` pixels: (blocks, side, side)."""
    rows, columns = luma.shape[0] // side, luma.shape[1] // side
    grid = luma[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return grid.transpose(0, 2, 1, 3).reshape(-1, side, side)


def _blur(luma: Luma) -> float:
    """Crete et al. 2007, "The blur effect": blurring a blurred picture again changes it little."""
    return max(_blur_along_rows(luma), _blur_along_rows(luma.T))


def _blur_along_rows(luma: Luma, taps: int = 9) -> float:
    if luma.shape[1] < 2:
        return 0.0
    padded = np.pad(luma, ((0, 0), (taps // 2 + 1, taps // 2)), mode="edge").astype(np.float64)
    total = np.cumsum(padded, axis=1)
    blurred = (total[:, taps:] - total[:, :-taps]) / taps
    steps, blurred_steps = np.abs(np.diff(luma, axis=1)), np.abs(np.diff(blurred, axis=1))
    total_steps = float(steps.sum())
    lost = float(np.maximum(0.0, steps - blurred_steps).sum())
    return (total_steps - lost) / total_steps if total_steps > 0 else 0.0


def _blockiness(luma: Luma) -> float:
    """Mean step at the strongest 8-pixel phase over the mean step elsewhere, of both axes."""
    return (_grid_excess(luma) + _grid_excess(luma.T)) / 2


def _grid_excess(luma: Luma) -> float:
    if luma.shape[1] < 24:
        return 1.0
    phases = _phase_steps(luma)
    elsewhere = float((phases.sum() - phases.max()) / 7)
    return float(phases.max()) / elsewhere if elsewhere > 1e-3 else 1.0


def _phase_steps(luma: Luma) -> npt.NDArray[np.float64]:
    """Mean step between columns by phase of an 8-pixel grid; entry p is before column p + 2.

    The mean of the neighbouring steps is subtracted, which removes slopes and keeps block edges.
    Clipping keeps one strong edge of the scene from dominating its column.
    """
    steps = np.diff(luma, axis=1)
    excess = np.abs(steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2)
    columns = np.minimum(excess, 16.0).mean(axis=0)
    return np.array([columns[phase::8].mean() for phase in range(8)])


def _jpeg_quality(luma: Luma) -> float:
    """The quality (libjpeg's scale) whose quantisation steps the blocks' coefficients fit.

    The lowest fitting quality is returned, since multiples of a large step are also multiples of
    its divisors (after Fan and de Queiroz 2003, who maximise a likelihood instead).
    """
    if min(luma.shape) < 24:
        return NO_JPEG
    top, left = ((int(_phase_steps(axis).argmax()) + 2) % 8 for axis in (luma.T, luma))
    blocks = _blocks(luma[top:, left:], 8)
    # Clipping at black or white moves coefficients off their steps.
    blocks = blocks[(blocks.min(axis=(1, 2)) > 2) & (blocks.max(axis=(1, 2)) < 253)]
    blocks = blocks[:: max(1, len(blocks) // MAX_BLOCKS)]
    coefficients = DCT @ blocks @ DCT.T
    qualities = list(range(5, 97))
    scores = [_step_fit(coefficients, quality) for quality in qualities]
    for index, score in enumerate(scores):
        if score > 0.5:
            # Slightly larger steps fit almost as well: climb to the top of this peak.
            while index + 1 < len(qualities) and scores[index + 1] > scores[index]:
                index += 1
            return float(qualities[index])
    return NO_JPEG


def _step_fit(coefficients: npt.NDArray[np.floating], quality: int) -> float:
    """How well coefficients fit multiples of a quality's steps: 1 exactly, 0 by chance."""
    table = scaled_table(LUMA_TABLE, quality)
    total, count = 0.0, 0
    for row, column in LOW_FREQUENCIES:
        step = int(table[row, column])
        if step < 3:
            continue  # rounding to 8-bit RGB blurs such small steps
        values = coefficients[:, row, column]
        values = values[np.abs(values) > step / 2]  # zeros fit every step
        total += float(np.cos(2 * np.pi * values / step).sum())
        count += values.size
    return total / count if count >= 24 else 0.0


def _brightness(luma: Luma) -> float:
    return float(luma.mean()) / 255.0


_OF_LUMA: dict[str, Callable[[Luma], float]] = {
    "noise": _noise,
    "blur": _blur,
    "blockiness": _blockiness,
    "brightness": _brightness,
}

FEATURES = (*_OF_LUMA, "megapixels")
