"""The DCT matrices."""

import numpy as np
import pytest
from scipy.fft import dct

from superres.image.dct import dct_cosines, orthonormal_dct


@pytest.mark.parametrize("size", [8, 32])
def test_the_matrices_are_scipys_transforms(size):
    identity = np.eye(size)
    assert orthonormal_dct(size) == pytest.approx(dct(identity, norm="ortho", axis=0), abs=1e-12)
    assert dct_cosines(size) == pytest.approx(dct(identity, axis=0) / 2, abs=1e-12)


def test_the_inverse_is_the_transpose():
    assert orthonormal_dct(8) @ orthonormal_dct(8).T == pytest.approx(np.eye(8), abs=1e-12)
