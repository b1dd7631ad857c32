"""A region's pixels are the model's, the rest is bicubic, whatever the boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superres.image.box import Box
from superres.image.region import REACH, BadRegion, Region
from superres.image.resize import imresize

SCALE = 2


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def enhance_region(rgb_hwc, region, side=16):
    """The output for a model that returns 255 everywhere, and the number of model boxes."""
    height, width = rgb_hwc.shape[:2]
    bicubic = imresize(rgb_hwc, scale=SCALE)
    output, model_boxes = bicubic.copy(), 0
    for top in range(0, height, side):
        for left in range(0, width, side):
            box = Box(
                top=top, left=left, height=min(side, height - top), width=min(side, width - left)
            )
            area = (
                slice(top * SCALE, (top + box.height) * SCALE),
                slice(left * SCALE, (left + box.width) * SCALE),
            )
            if region.touches(box):
                model_boxes += 1
                model = np.full_like(bicubic[area], 255)
                output[area] = region.blended(box, SCALE, model, bicubic[area])
    return output, model_boxes


def test_a_rectangle_is_the_models_inside_and_bicubic_outside():
    rgb_hwc = noise(60, 80) // 2
    output, model_boxes = enhance_region(rgb_hwc, Region.parse("20,10,24,16"))
    bicubic = imresize(rgb_hwc, scale=2)
    assert (output[20:52, 40:88] == 255).all()
    far = np.ones(output.shape[:2], bool)
    far[2 * (10 - REACH) : 2 * (26 + REACH), 2 * (20 - REACH) : 2 * (44 + REACH)] = False
    np.testing.assert_array_equal(output[far], bicubic[far])
    between = output[30, 40 - 2 * REACH : 41].astype(int).mean(axis=-1)
    assert bicubic.max() < between[-2] <= 255
    assert model_boxes < 4 * 5


@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    points=st.lists(st.tuples(st.floats(-10, 60), st.floats(-10, 60)), min_size=3, max_size=7),
    seed=st.integers(0, 9),
)
def test_boxes_make_no_difference_to_a_polygon(height, width, points, seed):
    rgb_hwc, region = noise(height, width, seed), Region(points=tuple(points))
    tiled, _ = enhance_region(rgb_hwc, region)
    whole, _ = enhance_region(rgb_hwc, region, side=64)
    np.testing.assert_array_equal(tiled, whole)
    inside = (
        region.rasterised(Box(top=0, left=0, height=height, width=width)).repeat(2, 0).repeat(2, 1)
    )
    assert (tiled[inside == 1] == 255).all()


@given(st.lists(st.tuples(st.integers(-5, 25), st.integers(-5, 25)), min_size=3, max_size=6))
def test_polygon_holds_the_pixels_whose_centres_it_surrounds(points):
    rasterised = Region(points=tuple(points)).rasterised(Box(top=0, left=0, height=20, width=20))
    for row, column in ((0, 0), (10, 10), (3, 17), (19, 19)):
        x, y, inside = column + 0.5, row + 0.5, False
        for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
            if (y1 > y) != (y2 > y) and x >= x1 + (y - y1) / (y2 - y1) * (x2 - x1):
                inside = not inside
        assert rasterised[row, column] == inside


def test_a_region_over_the_whole_picture_is_the_models():
    output, _ = enhance_region(noise(30, 30), Region.parse("-5,-5,1000,1e6"))
    assert (output == 255).all()


def test_16_bit_pictures_keep_their_depth():
    rgb_hwc = noise(30, 30).astype(np.uint16) * 200
    output, _ = enhance_region(rgb_hwc, Region.parse("0,0 10,0 10,10 0,10"))
    assert output.dtype == np.uint16
    np.testing.assert_array_equal(output[40:, 40:], imresize(rgb_hwc, scale=2)[40:, 40:])


@pytest.mark.parametrize(
    "text",
    [
        *("", "1,2,3", "1,2 3,4", "a,b,c,d", "nan,0,1,1", "1,2,inf,4", "0,0,0,5", "1e30,0,1,1"),
        *("1,2 3,4 5,6,7", " ".join(["1,2"] * 201)),
    ],
)
def test_invalid_text_is_refused(text):
    with pytest.raises(BadRegion):
        Region.parse(text)


@pytest.mark.parametrize("text", ["50,0,10,10", "-20,-20,10,10", "3.1,3.1,0.2,0.2", "0,0 5,5 9,9"])
def test_a_region_outside_the_picture_is_refused(text):
    with pytest.raises(BadRegion, match="pixel"):
        Region.parse(text).require_inside(30, 40)
    Region.parse("39,29,50,50").require_inside(30, 40)


def test_a_region_scales_with_its_picture():
    assert Region.parse("10,20,30,40").scaled(0.5) == Region.parse("5,10,15,20")
