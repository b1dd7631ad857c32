"""The symmetries of a square equal numpy's, read from a picture and written in place."""

import numpy as np
import pytest

from superres.image.dihedral import SYMMETRIES, write_symmetry


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_a_symmetry_is_a_rotation_then_a_mirror(symmetry: int) -> None:
    picture_hwc = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    square_hwc = picture_hwc[3:20, 7:24]
    batch_bhwc = np.zeros((3, 17, 17, 3), np.uint8)
    write_symmetry(square_hwc, symmetry, batch_bhwc[1])
    expected = np.rot90(square_hwc, symmetry % 4)
    np.testing.assert_array_equal(batch_bhwc[1], expected[:, ::-1] if symmetry >= 4 else expected)
    assert not batch_bhwc[[0, 2]].any()


def test_there_is_no_ninth_symmetry() -> None:
    with pytest.raises(ValueError, match="0 to 7"):
        write_symmetry(np.zeros((2, 2, 3), np.uint8), 8, np.zeros((2, 2, 3), np.uint8))
