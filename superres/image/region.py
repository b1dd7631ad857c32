"""A region of a picture that the model enhances, while the rest is resampled.

Inside the region the output is the model's, value for value; outside it is bicubic; along its edge
the two are blended over a few low-resolution pixels. Everything is computed box by box, so that
tiles away from the region need no model.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.image.box import Box
from superres.image.resize import restore_dtype

Array = NDArray[Any]
Point = tuple[float, float]

MAX_POINTS = 200
_USAGE = (
    "region must be 'x,y,width,height' or three to "
    f"{MAX_POINTS} corners 'x1,y1 x2,y2 x3,y3', in pixels of the upright picture"
)
FEATHER = 2  # radius in LR pixels of the box blur that feathers the region's edge
# LR pixels around the region that the mask reaches, and around a box that its mask depends on:
# dilation by FEATHER + 1, box blur by FEATHER, and one pixel for linear interpolation.
REACH = MARGIN = (FEATHER + 1) + FEATHER + 1


class BadRegion(SharplineError):
    """A region that cannot be parsed or lies outside the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A polygon in pixels of the upright input; pixel corners are at integer coordinates."""

    points: tuple[Point, ...]

    @classmethod
    def parse(cls, text: str) -> "Region":
        """Parse `x,y,w,h` (rectangle) or `x1,y1 x2,y2 x3,y3 ...` (polygon). Raises BadRegion."""
        try:
            parts = [tuple(float(value) for value in part.split(",")) for part in text.split()]
        except ValueError:
            raise BadRegion(_USAGE) from None
        if not all(math.isfinite(value) and abs(value) <= 1e9 for part in parts for value in part):
            raise BadRegion(_USAGE)
        if len(parts) == 1 and len(parts[0]) == 4:
            x, y, width, height = parts[0]
            if min(width, height) <= 0:
                raise BadRegion("a rectangle needs a width and a height above 0")
            right, bottom = x + width, y + height
            return cls(points=((x, y), (right, y), (right, bottom), (x, bottom)))
        if not 3 <= len(parts) <= MAX_POINTS or any(len(part) != 2 for part in parts):
            raise BadRegion(_USAGE)
        return cls(points=tuple((x, y) for x, y in parts))

    def scaled(self, factor: float) -> "Region":
        """The same region of a picture whose sides are `factor` times as long."""
        return Region(points=tuple((x * factor, y * factor) for x, y in self.points))

    def require_inside(self, height: int, width: int) -> None:
        """Raise BadRegion if no pixel of a picture of this size lies in the region."""
        whole = Box(top=0, left=0, height=height, width=width)
        left, top, right, bottom = self.bounds
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            raise BadRegion(
                f"the region lies outside the picture, which has {width:,}x{height:,} pixels"
            )
        inner = Box(
            top=max(0, math.floor(top)),
            left=max(0, math.floor(left)),
            height=math.ceil(min(bottom, whole.height)) - max(0, math.floor(top)),
            width=math.ceil(min(right, whole.width)) - max(0, math.floor(left)),
        )
        if not self.rasterised(inner).any():
            raise BadRegion("the region holds no pixel of the picture")

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        across, down = zip(*self.points, strict=True)
        return min(across), min(down), max(across), max(down)

    def touches(self, box: Box) -> bool:
        """Whether any output pixel of the box comes from the model."""
        left, top, right, bottom = self.bounds
        near = (
            left - REACH < box.left + box.width
            and right + REACH > box.left
            and top - REACH < box.top + box.height
            and bottom + REACH > box.top
        )
        return near and bool(self._feathered(box).any())

    def rasterised(self, box: Box) -> Array:
        """(box.height, box.width) uint8: 1 where a pixel's centre lies in the region, else 0.

        Scanline filling by the even-odd rule.
        """
        crossings = np.zeros((box.height, box.width + 1), np.uint8)
        down = np.arange(box.height) + box.top + 0.5
        for (x1, y1), (x2, y2) in zip(self.points, self.points[1:] + self.points[:1], strict=True):
            rows = np.flatnonzero((down >= min(y1, y2)) & (down < max(y1, y2)))
            across = x1 + (down[rows] - y1) / (y2 - y1) * (x2 - x1) if rows.size else down[:0]
            columns = np.clip(np.ceil(across - 0.5) - box.left, 0, box.width).astype(np.intp)
            crossings[rows, columns] ^= 1
        return np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1]

    def mask(self, box: Box, scale: int) -> Array:
        """(box.height, box.width) * scale float32: 1 model, 0 bicubic, a ramp along the edge."""
        return _enlarged(_enlarged(self._feathered(box), scale).T, scale).T

    def _feathered(self, box: Box) -> Array:
        """The dilated and box-blurred mask of the box and one more LR pixel on every side."""
        wide = Box(
            top=box.top - MARGIN,
            left=box.left - MARGIN,
            height=box.height + 2 * MARGIN,
            width=box.width + 2 * MARGIN,
        )
        feathered = self.rasterised(wide)
        for axis in (0, 1):
            feathered = _windows(feathered, FEATHER + 1, axis).max(axis=-1)
        for axis in (0, 1):
            feathered = _windows(feathered, FEATHER, axis).sum(axis=-1, dtype=np.uint16)
        return feathered.astype(np.float32) / np.float32((2 * FEATHER + 1) ** 2)

    def blended(self, box: Box, scale: int, model_hwc: Array, bicubic_hwc: Array) -> Array:
        """Blend the two outputs of a box, each (box.height * scale, box.width * scale, 3)."""
        mask = self.mask(box, scale)
        mixed_hwc = np.where((mask == 1)[..., None], model_hwc, bicubic_hwc)
        between = (mask > 0) & (mask < 1)
        bicubic = bicubic_hwc[between].astype(np.float32)
        step = model_hwc[between].astype(np.float32) - bicubic
        mixed_hwc[between] = restore_dtype(bicubic + mask[between][:, None] * step, model_hwc.dtype)
        return mixed_hwc


def _windows(plane: Array, reach: int, axis: int) -> Array:
    """Sliding windows of 2 * reach + 1 values along an axis, which becomes 2 * reach shorter."""
    return np.lib.stride_tricks.sliding_window_view(plane, 2 * reach + 1, axis=axis)


def _enlarged(plane: Array, scale: int) -> Array:
    """Linear interpolation to `scale` times as many rows, without the first and last input row."""
    before, here, after = plane[:-2], plane[1:-1], plane[2:]
    rows = []
    for step in range(scale):
        part = np.float32((step + 0.5) / scale - 0.5)
        rows.append(here + abs(part) * ((before if part < 0 else after) - here))
    return np.stack(rows, axis=1).reshape(len(here) * scale, plane.shape[1])
