"""The discrete cosine transform (DCT-II) as a matrix; one frequency per row."""

from functools import cache

import numpy as np
import numpy.typing as npt


@cache
def dct_cosines(size: int) -> npt.NDArray[np.float64]:
    """The cosines of the DCT of `size` samples, without normalisation."""
    frequency, position = np.mgrid[:size, :size]
    return np.cos(np.pi * frequency * (2 * position + 1) / (2 * size))


def orthonormal_dct(size: int) -> npt.NDArray[np.float64]:
    """The orthonormal DCT of `size` samples; its inverse is the transpose."""
    basis = dct_cosines(size) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis
