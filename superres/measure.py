"""What a picture suffers from, as a few cheap numbers; nothing of the picture itself is kept.

Training states the distribution of these numbers over its low-resolution pictures, serving compares
live pictures with it. Every function takes RGB (H, W, 3) uint8 or uint16 and works on a centre crop
of at most CROP_SIDE pixels a side, so a large picture costs no more than a middling one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.float32]

CROP_SIDE = 1024
SUMMARY = ("mean", "std", "p05", "p50", "p95")


def measure(rgb_hwc: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> dict[str, float]:
    """The value of every feature in FEATURES for one picture of any size.

    noise: standard deviation in 8-bit levels; blur: 0 sharp to 1 blurred; blockiness: 1 none, more
    where steps gather on an 8-pixel grid; megapixels; brightness: 0 black to 1 white.
    """
    luma = _luma_levels(rgb_hwc)
    values = {name: feature(luma) for name, feature in _OF_LUMA.items()}
    values["megapixels"] = rgb_hwc.shape[0] * rgb_hwc.shape[1] / 1e6
    return {name: float(values[name]) for name in FEATURES}


def summarise(measurements: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, deviation and percentiles of every feature over many pictures, keyed as in SUMMARY."""
    if not measurements:
        return {}
    summary: dict[str, dict[str, float]] = {}
    for name in FEATURES:
        values = np.array([measured[name] for measured in measurements], dtype=np.float64)
        p05, p50, p95 = np.percentile(values, [5, 50, 95])
        figures = (values.mean(), values.std(), p05, p50, p95)
        summary[name] = {
            key: round(float(figure), 6) for key, figure in zip(SUMMARY, figures, strict=True)
        }
    return summary


def _luma_levels(rgb_hwc: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Luma:
    """BT.601 luma of the centre crop, in 8-bit levels 0 to 255."""
    height, width = rgb_hwc.shape[:2]
    top, left = max(0, (height - CROP_SIDE) // 2), max(0, (width - CROP_SIDE) // 2)
    # A crop on the picture's own 8-pixel grid keeps the phase that JPEG left, so none is lost.
    top, left = top - top % 8, left - left % 8
    crop = rgb_hwc[top : top + CROP_SIDE, left : left + CROP_SIDE].astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    if rgb_hwc.dtype == np.uint16:
        weights = weights / np.float32(257.0)
    return crop @ weights


def _noise(luma: Luma) -> float:
    """Donoho's robust deviation: the median of the diagonal Haar detail over 0.6745."""
    height, width = luma.shape[0] // 2 * 2, luma.shape[1] // 2 * 2
    if height == 0 or width == 0:
        return 0.0
    even = luma[:height, :width]
    diagonal = (even[::2, ::2] - even[1::2, ::2] - even[::2, 1::2] + even[1::2, 1::2]) / 2
    return float(np.median(np.abs(diagonal))) / 0.6745


def _blur(luma: Luma) -> float:
    """Crete et al. 2007, "The blur effect": how little a further blur changes the picture."""
    return max(_blur_along_rows(luma), _blur_along_rows(luma.T))


def _blur_along_rows(luma: Luma, taps: int = 9) -> float:
    if luma.shape[1] < 2:
        return 0.0
    padded = np.pad(luma, ((0, 0), (taps // 2 + 1, taps // 2)), mode="edge").astype(np.float64)
    total = np.cumsum(padded, axis=1)
    blurred = (total[:, taps:] - total[:, :-taps]) / taps
    steps, blurred_steps = np.abs(np.diff(luma, axis=1)), np.abs(np.diff(blurred, axis=1))
    everything = float(steps.sum())
    lost = float(np.maximum(0.0, steps - blurred_steps).sum())
    return (everything - lost) / everything if everything > 0 else 0.0


def _blockiness(luma: Luma) -> float:
    """Mean step across the strongest 8-pixel phase over the mean step elsewhere, both axes."""
    return (_grid_excess(luma) + _grid_excess(luma.T)) / 2


def _grid_excess(luma: Luma) -> float:
    if luma.shape[1] < 24:
        return 1.0
    # The step minus its neighbours' mean: a slope has none, a block edge all of it. Clipping keeps
    # one strong edge of the scene from speaking for the whole column.
    steps = np.diff(luma, axis=1)
    excess = np.abs(steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2)
    columns = np.minimum(excess, 16.0).mean(axis=0)
    phases = np.array([columns[phase::8].mean() for phase in range(8)])
    elsewhere = float((phases.sum() - phases.max()) / 7)
    return float(phases.max()) / elsewhere if elsewhere > 1e-3 else 1.0


def _brightness(luma: Luma) -> float:
    return float(luma.mean()) / 255.0


_OF_LUMA: dict[str, Callable[[Luma], float]] = {
    "noise": _noise,
    "blur": _blur,
    "blockiness": _blockiness,
    "brightness": _brightness,
}

FEATURES = (*_OF_LUMA, "megapixels")
