"""Square crops of pictures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def center_crop(hwc: NDArray[Any], side: int, *, multiple: int = 1) -> NDArray[Any]:
    """The centre crop of a picture (H, W, C), at most `side` pixels a side, contiguous.

    Its top and left are rounded down to a `multiple`, which aligns a crop to a grid of blocks.
    """
    top, left = (max(0, (length - side) // 2) // multiple * multiple for length in hwc.shape[:2])
    return np.ascontiguousarray(hwc[top : top + side, left : left + side])


def crop_corner(height: int, width: int, centre: tuple[int, int], side: int) -> tuple[int, int]:
    """Top and left of a square around `centre` (row, column), moved to lie within the picture."""
    return (
        max(0, min(centre[0] - side // 2, height - side)),
        max(0, min(centre[1] - side // 2, width - side)),
    )
