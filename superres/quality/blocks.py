"""A picture's error map as a grid of blocks, the units of the bootstrap."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Near-equal blocks over a picture, in row-major order.

    Blocks have at least the requested side (a smaller picture is one block), so the border has no
    narrow blocks.
    """

    rows: Indices
    columns: Indices

    @classmethod
    def over(cls, height: int, width: int, block_pixels: int) -> "Grid":
        """The grid of a picture, with blocks of `block_pixels` a side or up to twice that."""
        return cls(rows=_edges(height, block_pixels), columns=_edges(width, block_pixels))

    @property
    def counts(self) -> Floats:
        """Pixels in each block, (blocks,)."""
        return np.outer(np.diff(self.rows), np.diff(self.columns)).ravel().astype(np.float64)

    def sums(self, error_hw: Floats) -> Floats:
        """Sum of the error map over each block, (blocks,)."""
        by_row = np.add.reduceat(error_hw, self.rows[:-1], axis=0)
        return np.add.reduceat(by_row, self.columns[:-1], axis=1).ravel()

    def centre(self, index: int) -> tuple[int, int]:
        """Row and column of the middle pixel of a block."""
        row, column = divmod(index, len(self.columns) - 1)
        return (
            int(self.rows[row] + self.rows[row + 1]) // 2,
            int(self.columns[column] + self.columns[column + 1]) // 2,
        )


def _edges(length: int, block_pixels: int) -> Indices:
    return np.linspace(0, length, max(1, length // block_pixels) + 1).astype(np.int64)
