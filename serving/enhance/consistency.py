"""Checks that an answer matches its input: each region, downscaled, is compared with the input's.

A network may change detail, but a correct answer keeps the low frequencies of its input. At most it
flattens a region completely, for an RMS error of one standard deviation; a stale, blank or
misplaced tile has a larger error. A region's value is therefore its RMS error in excess of its own
standard deviation, in grey levels of 255, and 0 below.

Each strip is checked before it is encoded, so a refused strip is never sent and no trailer is
needed, which most clients do not read.
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
    """The value of the worst region and the number of regions above the limit."""

    worst_levels: float = 0.0
    inconsistent_regions: int = 0

    @property
    def ok(self) -> bool:
        return self.inconsistent_regions == 0

    def combined_with(self, other: "ConsistencyResult") -> "ConsistencyResult":
        """The result of two parts of one answer together."""
        return ConsistencyResult(
            worst_levels=max(self.worst_levels, other.worst_levels),
            inconsistent_regions=self.inconsistent_regions + other.inconsistent_regions,
        )


def check_strip(
    picture: Picture, strip_hwc: Array, *, top: int, scale: int, limit_levels: float
) -> ConsistencyResult:
    """Compare the enlarged rows of a strip with the rows of `picture` from row `top`."""
    rows_hwc = picture.rgb_hwc[top : top + len(strip_hwc) // scale]
    excess = excess_levels(rows_hwc, shrunk(strip_hwc, scale))
    return ConsistencyResult(
        worst_levels=float(excess.max()),
        inconsistent_regions=int(np.count_nonzero(excess > limit_levels)),
    )


def excess_levels(rows_hwc: Array, shrunk_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
    """RMS error of each region beyond its standard deviation, (regions down, regions across)."""
    to_levels = np.float32(255.0 / np.iinfo(rows_hwc.dtype).max)
    lr_hwc = rows_hwc.astype(np.float32) * to_levels
    error = region_means(np.square(shrunk_hwc * to_levels - lr_hwc)).mean(axis=2)
    variance = region_means(np.square(lr_hwc)) - np.square(region_means(lr_hwc))
    deviation = np.sqrt(np.maximum(variance.mean(axis=2), 0.0))
    return np.maximum(np.sqrt(error) - deviation, 0.0)


def shrunk(strip_hwc: Array, scale: int) -> NDArray[np.float32]:
    """The mean of each square of `scale` x `scale` pixels."""
    height, width, channels = strip_hwc.shape
    # Rows first: their sums are wide, contiguous additions.
    rows = strip_hwc.reshape(height // scale, scale, -1).sum(axis=1, dtype=np.uint32)
    squares = rows.reshape(height // scale, width // scale, scale, channels)
    total = squares[:, :, 0]
    for column in range(1, scale):
        total = total + squares[:, :, column]
    return total.astype(np.float32) / np.float32(scale * scale)


def region_means(values_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over regions of REGION_SIDE, smaller at the right and lower edges."""
    for axis in (0, 1):
        side = values_hwc.shape[axis]
        starts = np.arange(0, side, REGION_SIDE)
        counts = np.minimum(REGION_SIDE, side - starts).astype(np.float32)
        counts_shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        values_hwc = np.add.reduceat(values_hwc, starts, axis=axis) / counts.reshape(counts_shape)
    return values_hwc
