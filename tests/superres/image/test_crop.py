"""Square crops."""

import numpy as np
import pytest

from superres.image.crop import center_crop, crop_corner

ROWS, COLUMNS = np.mgrid[:21, :30]
PICTURE_HWC = np.stack([ROWS, COLUMNS, ROWS + COLUMNS], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("side", "multiple", "corner", "shape"),
    [(10, 1, (5, 10), (10, 10)), (10, 4, (4, 8), (10, 10)), (25, 1, (0, 2), (21, 25))],
)
def test_a_crop_is_centred_on_a_grid(side, multiple, corner, shape):
    crop_hwc = center_crop(PICTURE_HWC, side, multiple=multiple)
    assert crop_hwc.shape == (*shape, 3)
    assert tuple(crop_hwc[0, 0, :2]) == corner
    assert crop_hwc.flags.c_contiguous


def test_a_small_picture_is_kept_whole():
    assert np.array_equal(center_crop(PICTURE_HWC, 64), PICTURE_HWC)


@pytest.mark.parametrize(
    ("centre", "corner"), [((10, 15), (5, 10)), ((0, 29), (0, 20)), ((20, 0), (11, 0))]
)
def test_a_crop_around_a_point_stays_within_the_picture(centre, corner):
    assert crop_corner(21, 30, centre, 10) == corner
    assert crop_corner(5, 5, centre, 10) == (0, 0)
