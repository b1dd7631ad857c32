"""Cut a picture into tiles with a halo and join the results; numpy only.

The canonical result of a network is `crop(net(reflect_pad(picture, halo)))`. A tile carries the
same context, `halo` pixels on every side with the picture's borders reflected, so each core pixel
sees what it sees in the whole. Tiles come in a few bucket shapes, so that tiles of different
pictures can share a batch; all of them start on one grid that windows and pixel-unshuffling share.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What a model asks of its tiles; lengths in low-resolution pixels.

    `buckets` are the tile shapes (height, width) including the halo. Raises ValueError where the
    halo or a bucket leaves the grid of `size_multiple` and `window`, or a bucket is all halo.
    """

    scale: int
    halo: int
    size_multiple: int = 1
    window: int | None = None
    buckets: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if self.halo % self.grid:
            raise ValueError(f"halo {self.halo} is not a multiple of {self.grid}")
        if not self.buckets:
            raise ValueError("a geometry needs at least one bucket")
        for sides in self.buckets:
            if any(side % self.grid or side <= 2 * self.halo for side in sides):
                raise ValueError(
                    f"bucket {sides} must be multiples of {self.grid} and larger than two halos "
                    f"of {self.halo}"
                )

    @property
    def grid(self) -> int:
        """Tiles start on multiples of this."""
        return math.lcm(self.size_multiple, self.window or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The core of one tile in the picture: what it alone contributes."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """How one picture is cut; `Joiner` undoes exactly this. Boxes go row by row."""

    boxes: tuple[Box, ...]
    columns: int
    bucket: tuple[int, int]
    halo: int
    scale: int
    height: int
    width: int

    @property
    def waste_ratio(self) -> float:
        """Pixels computed per pixel of the picture, at least 1."""
        return len(self.boxes) * self.bucket[0] * self.bucket[1] / (self.height * self.width)


def plan(height: int, width: int, geometry: Geometry) -> TilePlan:
    """Cut a picture of `height` x `width` with the bucket that computes the fewest pixels."""
    halo = geometry.halo

    def cost(bucket: tuple[int, int]) -> tuple[int, int]:
        rows = math.ceil(height / (bucket[0] - 2 * halo))
        columns = math.ceil(width / (bucket[1] - 2 * halo))
        return rows * columns * bucket[0] * bucket[1], rows * columns

    bucket = min(geometry.buckets, key=cost)
    core_height, core_width = bucket[0] - 2 * halo, bucket[1] - 2 * halo
    boxes = tuple(
        Box(
            top=top,
            left=left,
            height=min(core_height, height - top),
            width=min(core_width, width - left),
        )
        for top in range(0, height, core_height)
        for left in range(0, width, core_width)
    )
    return TilePlan(
        boxes=boxes,
        columns=math.ceil(width / core_width),
        bucket=bucket,
        halo=halo,
        scale=geometry.scale,
        height=height,
        width=width,
    )


def cut(rgb_hwc: Array, tile_plan: TilePlan) -> Iterator[Array]:
    """Tiles of the plan's bucket shape in its order: (bucket height, bucket width, channels)."""
    for index in range(len(tile_plan.boxes)):
        yield cut_one(rgb_hwc, tile_plan, index)


def cut_one(rgb_hwc: Array, tile_plan: TilePlan, index: int) -> Array:
    """The tile at `index` alone."""
    box, halo = tile_plan.boxes[index], tile_plan.halo
    rows = reflected(box.top - halo, tile_plan.bucket[0], tile_plan.height)
    columns = reflected(box.left - halo, tile_plan.bucket[1], tile_plan.width)
    return np.ascontiguousarray(rgb_hwc[rows[:, None], columns[None, :]])


def padded_whole(rgb_hwc: Array, geometry: Geometry) -> Array:
    """The whole picture with its halo reflected, sides rounded up to the grid."""
    height, width = rgb_hwc.shape[:2]

    def length(side: int) -> int:
        return math.ceil((side + 2 * geometry.halo) / geometry.grid) * geometry.grid

    rows = reflected(-geometry.halo, length(height), height)
    columns = reflected(-geometry.halo, length(width), width)
    return np.ascontiguousarray(rgb_hwc[rows[:, None], columns[None, :]])


def crop_whole(result_hwc: Array, height: int, width: int, geometry: Geometry) -> Array:
    """Undo `padded_whole` on the network's answer for a picture of `height` x `width`."""
    edge = geometry.halo * geometry.scale
    rows = slice(edge, edge + height * geometry.scale)
    columns = slice(edge, edge + width * geometry.scale)
    return result_hwc[rows, columns]


def reflected(start: int, length: int, side: int) -> NDArray[np.intp]:
    """Indices start .. start + length - 1 mirrored into [0, side), no border repeated."""
    period = max(2 * (side - 1), 1)
    places = np.mod(np.arange(start, start + length), period)
    return np.minimum(places, period - places) if side > 1 else np.zeros(length, np.intp)


class Joiner:
    """Collects results in any order and gives back finished rows from the top down.

    Results are (bucket height * scale, bucket width * scale, channels) of one dtype.
    """

    def __init__(self, tile_plan: TilePlan) -> None:
        self._plan = tile_plan
        self._rows = len(tile_plan.boxes) // tile_plan.columns
        self._pending: dict[int, list[Array | None]] = {}
        self._finished: dict[int, Array] = {}
        self._next_row = 0

    @property
    def complete(self) -> bool:
        """Whether every row has been given back."""
        return self._next_row == self._rows

    def add(self, index: int, result_hwc: Array) -> None:
        """Take the result of the tile at `index`; its halo is dropped here."""
        box, scale = self._plan.boxes[index], self._plan.scale
        edge = self._plan.halo * scale
        self.add_core(
            index,
            result_hwc[edge : edge + box.height * scale, edge : edge + box.width * scale],
        )

    def add_core(self, index: int, core_hwc: Array) -> None:
        """Take a tile's result that has no halo any more: (box height, box width) * scale."""
        box, scale = self._plan.boxes[index], self._plan.scale
        if core_hwc.shape[:2] != (box.height * scale, box.width * scale):
            raise ValueError(f"tile {index} came back as {core_hwc.shape}, too small for {box}")
        row, column = divmod(index, self._plan.columns)
        cores = self._pending.setdefault(row, [None] * self._plan.columns)
        cores[column] = core_hwc
        done = [core for core in cores if core is not None]
        if len(done) == len(cores):
            self._finished[row] = np.concatenate(done, axis=1)
            del self._pending[row]

    def stripes(self) -> Iterator[Array]:
        """Rows that are finished and not yet given back: (rows, width * scale, channels)."""
        while self._next_row in self._finished:
            yield self._finished.pop(self._next_row)
            self._next_row += 1

    def result(self) -> Array:
        """The whole answer, (H * scale, W * scale, channels); every tile must have been added."""
        stripes = list(self.stripes())
        if not self.complete:
            raise ValueError(f"only {self._next_row} of {self._rows} rows of tiles are there")
        return np.concatenate(stripes)


def join(results_hwc: Sequence[Array], tile_plan: TilePlan) -> Array:
    """All results, in the plan's order, as one picture."""
    joiner = Joiner(tile_plan)
    for index, result in enumerate(results_hwc):
        joiner.add(index, result)
    return joiner.result()
