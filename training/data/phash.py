"""A perceptual hash: nearly equal pictures get nearly equal hashes, so that leaks can be found."""

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from superres.resize import imresize

SIDE, KEPT = 32, 8
NEAR_BITS = 6  # of 64; unrelated photographs differ in about 32


def perceptual_hash(rgb_hwc_u8: npt.NDArray[np.uint8]) -> str:
    """64 bits as 16 hex digits: signs of the low DCT frequencies of a 32x32 thumbnail's luma."""
    thumbnail = imresize(rgb_hwc_u8, size=(SIDE, SIDE)).astype(np.float64)
    luma = thumbnail @ np.array([0.299, 0.587, 0.114])
    spectrum = (_dct() @ luma @ _dct().T)[:KEPT, :KEPT].ravel()
    # The first coefficient is the mean brightness: it has no part in what the picture shows.
    bits = spectrum > np.median(spectrum[1:])
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def distance(first: str, second: str) -> int:
    """The number of bits in which two hashes differ, 0 to 64."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


@cache
def _dct() -> npt.NDArray[np.float64]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.cos(math.pi * rows * (2 * columns + 1) / (2 * SIDE))
