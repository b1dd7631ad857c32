"""Whether an answer belongs to its input: each of its regions, shrunk, is laid on the input's.

A network may repaint detail, but an answer to *this* input keeps, region by region, what is seen
from afar. The most that an honest answer does is to flatten a region altogether, which puts it one
standard deviation off; a stale, blank or misplaced tile is further off. So a region's figure is
how far it is off beyond its own deviation, in grey levels of 255, and 0 for whatever is within.

Each stripe is checked before it is encoded. What is refused therefore never leaves, and what has
left needs no flag afterwards; that is why no trailer is used, which most clients do not read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.image.codecs import Picture

Array = NDArray[Any]

REGION_SIDE = 32  # LR pixels; a tile of any bucket covers several


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyResult:
    """What was found so far: the worst region's figure and how many regions passed the limit."""

    worst_levels: float = 0.0
    regions_off: int = 0

    @property
    def ok(self) -> bool:
        return self.regions_off == 0

    def combined_with(self, other: "ConsistencyResult") -> "ConsistencyResult":
        """Both parts of one answer."""
        return ConsistencyResult(
            worst_levels=max(self.worst_levels, other.worst_levels),
            regions_off=self.regions_off + other.regions_off,
        )


def check_strip(
    picture: Picture, strip_hwc: Array, *, top: int, scale: int, limit_levels: float
) -> ConsistencyResult:
    """Compare the enlarged rows that start at row `top` of `picture` with the rows they answer."""
    rows_hwc = picture.rgb_hwc[top : top + len(strip_hwc) // scale]
    off = off_levels(rows_hwc, shrunk(strip_hwc, scale))
    return ConsistencyResult(
        worst_levels=float(off.max()), regions_off=int(np.count_nonzero(off > limit_levels))
    )


def off_levels(rows_hwc: Array, shrunk_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each region is off beyond its own deviation, (regions down, regions across)."""
    to_levels = np.float32(255.0 / np.iinfo(rows_hwc.dtype).max)
    lr_hwc = rows_hwc.astype(np.float32) * to_levels
    error = by_region(np.square(shrunk_hwc * to_levels - lr_hwc)).mean(axis=2)
    variance = by_region(np.square(lr_hwc)) - np.square(by_region(lr_hwc))
    deviation = np.sqrt(np.maximum(variance.mean(axis=2), 0.0))
    return np.maximum(np.sqrt(error) - deviation, 0.0)


def shrunk(strip_hwc: Array, scale: int) -> NDArray[np.float32]:
    """The mean of each square of `scale` x `scale` pixels."""
    height, width, channels = strip_hwc.shape
    # Sums of rows first: they lie in memory as wide, contiguous additions.
    rows = strip_hwc.reshape(height // scale, scale, -1).sum(axis=1, dtype=np.uint32)
    squares = rows.reshape(height // scale, width // scale, scale, channels)
    total = squares[:, :, 0]
    for column in range(1, scale):
        total = total + squares[:, :, column]
    return total.astype(np.float32) / np.float32(scale * scale)


def by_region(values_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over regions of REGION_SIDE, smaller at the right and lower edges."""
    for axis in (0, 1):
        side = values_hwc.shape[axis]
        starts = np.arange(0, side, REGION_SIDE)
        counts = np.minimum(REGION_SIDE, side - starts).astype(np.float32)
        spread = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        values_hwc = np.add.reduceat(values_hwc, starts, axis=axis) / counts.reshape(spread)
    return values_hwc
