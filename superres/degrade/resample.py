"""Resizing as in common software, without antialiasing, for degradations.

Unlike `superres.image.resize` these do not antialias, because most software does not: they equal
torch's `interpolate` (align_corners=False), which Real-ESRGAN uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from superres.degrade.arrays import Array, as_array_like, as_index_like

Mode = Literal["area", "bilinear", "bicubic", "nearest"]
MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")

Taps = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Resize all pictures of a batch to (height, width)."""

    height: int
    width: int
    mode: Mode

    @staticmethod
    def run(batch_bchw: Array, steps: "Sequence[Resize]") -> Array:
        if len(set(steps)) > 1:
            raise ValueError("all pictures of a batch must be resized to the same size and mode")
        return resized(batch_bchw, (steps[0].height, steps[0].width), steps[0].mode)


def draw_mode(rng: np.random.Generator) -> Mode:
    """Draw one of MODES."""
    return MODES[int(rng.integers(len(MODES)))]


def resized(batch_bchw: Array, size: tuple[int, int], mode: Mode) -> Array:
    """Resize a batch to `size` (height, width); bicubic may overshoot [0, 1]."""
    for axis in sorted((2, 3), key=lambda axis: size[axis - 2] / batch_bchw.shape[axis]):
        before, after = batch_bchw.shape[axis], size[axis - 2]
        if before == after:
            continue
        total = 0.0
        for index, weight in _taps(before, after, mode):
            positions, weights = as_index_like(index, batch_bchw), as_array_like(weight, batch_bchw)
            if axis == 2:
                total = total + batch_bchw[:, :, positions] * weights[:, None]
            else:
                total = total + batch_bchw[..., positions] * weights
        batch_bchw = total
    return batch_bchw


def _taps(before: int, after: int, mode: Mode) -> Taps:
    """For each tap: its input index and weight in every output sample."""
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    if mode == "nearest":
        return [(np.minimum(np.floor(centres + 0.5), before - 1).astype(np.int64), np.ones(after))]
    if mode == "area":
        return _area_taps(before, after)
    if mode == "bilinear":
        centres = np.maximum(centres, 0)
    first = np.floor(centres).astype(np.int64)
    part: npt.NDArray[np.float64] = np.subtract(centres, first, dtype=np.float64)
    weights: dict[int, npt.NDArray[np.float64]]
    if mode == "bilinear":
        weights = {0: 1 - part, 1: part}
    else:
        weights = {offset: _sharp_cubic(np.abs(part - offset)) for offset in (-1, 0, 1, 2)}
    return [(np.clip(first + offset, 0, before - 1), weight) for offset, weight in weights.items()]


def _area_taps(before: int, after: int) -> Taps:
    """The mean of all input samples that an output sample overlaps."""
    starts = np.arange(after) * before // after
    ends = -(-(np.arange(1, after + 1) * before) // after)
    counts = ends - starts
    return [
        (np.minimum(starts + tap, before - 1), np.where(tap < counts, 1.0 / counts, 0.0))
        for tap in range(int(counts.max()))
    ]


def _sharp_cubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic with a = -0.75, as in OpenCV and torch."""
    a, d = -0.75, distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
