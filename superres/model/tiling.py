"""Cut a picture into tiles with a halo and join the results; numpy only.

The canonical output of a network is `crop(net(reflect_pad(picture, halo)))`. A tile has the same
context, `halo` pixels on every side with the picture's borders reflected, so each core pixel has
the same receptive field as in the whole picture. Tiles have one of a few bucket shapes, so that
tiles of different pictures can share a batch; all start on the grid of attention windows and
pixel-unshuffling.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.image.box import Box

Array = NDArray[Any]

# Granularity of tile shapes: a runtime compiles kernels for each new shape.
SHAPE_STEP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A model's requirements on tiles; lengths in low-resolution pixels.

    `buckets` are the tile shapes (height, width) including the halo. With `any_shape` they are only
    examples: a tile may have any shape on the grid of at most the largest bucket's area. Raises
    ValueError if the halo or a bucket is not on the grid of `size_multiple` and `window`, or a
    bucket has no core.
    """

    scale: int
    halo: int
    size_multiple: int = 1
    window: int | None = None
    buckets: tuple[tuple[int, int], ...]
    any_shape: bool = False

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
        """Tile positions and sides are multiples of this."""
        return math.lcm(self.size_multiple, self.window or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """The tiles of one picture, which `Joiner` joins; boxes are in row-major order."""

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
    """Plan the tiles of a picture of `height` x `width` with the cheapest bucket."""
    halo = geometry.halo
    bucket = best_bucket(height, width, geometry)
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


def best_bucket(height: int, width: int, geometry: Geometry) -> tuple[int, int]:
    """The tile shape that computes the fewest pixels for a picture of `height` x `width`."""

    def cost(bucket: tuple[int, int]) -> tuple[int, int]:
        tiles = _tile_count(height, width, bucket, geometry.halo)
        return tiles * bucket[0] * bucket[1], tiles

    shapes = _fitting_shapes(height, width, geometry) if geometry.any_shape else geometry.buckets
    return min(shapes, key=cost)


def _fitting_shapes(height: int, width: int, geometry: Geometry) -> Iterator[tuple[int, int]]:
    """For every tile height the width that divides the picture into equal columns."""
    step, edges = math.lcm(geometry.grid, SHAPE_STEP), 2 * geometry.halo
    max_pixels = max(bucket[0] * bucket[1] for bucket in geometry.buckets)

    def rounded_up(side: int) -> int:
        return math.ceil(side / step) * step

    yield from geometry.buckets  # fallback if no shape on the step fits
    for core_height in range(step, rounded_up(height) + 1, step):
        widest = (max_pixels // (core_height + edges) - edges) // step * step
        if widest < step:
            return
        columns = math.ceil(width / widest)
        yield core_height + edges, rounded_up(math.ceil(width / columns)) + edges


def computed_pixels(height: int, width: int, geometry: Geometry) -> int:
    """Network input pixels for a picture of `height` x `width`, halos included."""
    bucket = best_bucket(height, width, geometry)
    return _tile_count(height, width, bucket, geometry.halo) * bucket[0] * bucket[1]


def _tile_count(height: int, width: int, bucket: tuple[int, int], halo: int) -> int:
    rows = math.ceil(height / (bucket[0] - 2 * halo))
    columns = math.ceil(width / (bucket[1] - 2 * halo))
    return rows * columns


def cut(rgb_hwc: Array, tile_plan: TilePlan) -> Iterator[Array]:
    """The tiles in the plan's order, each (bucket height, bucket width, channels)."""
    for index in range(len(tile_plan.boxes)):
        yield cut_tile(rgb_hwc, tile_plan, index)


def cut_tile(rgb_hwc: Array, tile_plan: TilePlan, index: int) -> Array:
    """The tile at `index`."""
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
    """Undo `padded_whole` on the network's output for a picture of `height` x `width`."""
    edge = geometry.halo * geometry.scale
    rows = slice(edge, edge + height * geometry.scale)
    columns = slice(edge, edge + width * geometry.scale)
    return result_hwc[rows, columns]


def reflected(start: int, length: int, side: int) -> NDArray[np.intp]:
    """Indices start .. start + length - 1 reflected into [0, side), without repeating borders."""
    period = max(2 * (side - 1), 1)
    positions = np.mod(np.arange(start, start + length), period)
    return np.minimum(positions, period - positions) if side > 1 else np.zeros(length, np.intp)


def core_of(result_hwc: Array, tile_plan: TilePlan, index: int) -> Array:
    """The core of a tile's result, without its halo."""
    box, scale = tile_plan.boxes[index], tile_plan.scale
    edge = tile_plan.halo * scale
    return result_hwc[edge : edge + box.height * scale, edge : edge + box.width * scale]


def run_in_parts(
    tile_hwc: Array,
    geometry: Geometry,
    bucket: tuple[int, int],
    forward: Callable[[Array], Array],
) -> Array:
    """Run a tile in parts of the shape `bucket`, which must not be larger than the tile.

    The tile's halo is the context of its parts, so the core equals that of the whole tile; the
    result's halo stays zero.
    """
    (height, width), (part_height, part_width) = tile_hwc.shape[:2], bucket
    halo, scale = geometry.halo, geometry.scale
    result_hwc = np.zeros((height * scale, width * scale, tile_hwc.shape[2]), tile_hwc.dtype)
    for first_row in _part_starts(height, part_height, halo):
        for first_column in _part_starts(width, part_width, halo):
            rows = slice(first_row, first_row + part_height)
            columns = slice(first_column, first_column + part_width)
            part = forward(np.ascontiguousarray(tile_hwc[rows, columns]))
            edge = slice(halo * scale, None if halo == 0 else -halo * scale)
            core = part[edge, edge]
            top, left = (first_row + halo) * scale, (first_column + halo) * scale
            result_hwc[top : top + core.shape[0], left : left + core.shape[1]] = core
    return result_hwc


def _part_starts(side: int, part_side: int, halo: int) -> list[int]:
    """The parts' starts, so that their cores cover the tile's; the last part ends at the tile's."""
    step = part_side - 2 * halo
    starts = range(0, side - 2 * halo, step)
    return [min(start, side - part_side) for start in starts]


class Joiner:
    """Collects tile results in any order and yields finished rows from the top down.

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
        """Whether every row has been yielded."""
        return self._next_row == self._rows

    def add(self, index: int, result_hwc: Array) -> None:
        """Add the result of the tile at `index`; its halo is dropped."""
        self.add_core(index, core_of(result_hwc, self._plan, index))

    def add_core(self, index: int, core_hwc: Array) -> None:
        """Add a tile's result without halo: (box height, box width) * scale."""
        box, scale = self._plan.boxes[index], self._plan.scale
        if core_hwc.shape[:2] != (box.height * scale, box.width * scale):
            raise ValueError(
                f"the result of tile {index}, {core_hwc.shape}, is too small for {box}"
            )
        row, column = divmod(index, self._plan.columns)
        cores = self._pending.setdefault(row, [None] * self._plan.columns)
        cores[column] = core_hwc
        done = [core for core in cores if core is not None]
        if len(done) == len(cores):
            self._finished[row] = np.concatenate(done, axis=1)
            del self._pending[row]

    def strips(self) -> Iterator[Array]:
        """Strips that are finished and not yet yielded: (rows, width * scale, channels)."""
        while self._next_row in self._finished:
            yield self._finished.pop(self._next_row)
            self._next_row += 1

    def result(self) -> Array:
        """The whole output, (H * scale, W * scale, channels); every tile must have been added."""
        strips = list(self.strips())
        if not self.complete:
            raise ValueError(f"only {self._next_row} of {self._rows} rows of tiles are complete")
        return np.concatenate(strips)


def join(results_hwc: Sequence[Array], tile_plan: TilePlan) -> Array:
    """Join all results, in the plan's order, into one picture."""
    joiner = Joiner(tile_plan)
    for index, result in enumerate(results_hwc):
        joiner.add(index, result)
    return joiner.result()
