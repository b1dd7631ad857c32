"""Joining undoes cutting, and tiles are windows of the padded whole picture."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superres.model.tiling import (
    Geometry,
    Joiner,
    computed_pixels,
    crop_whole,
    cut,
    join,
    padded_whole,
    plan,
    reflected,
    run_in_parts,
)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    grid = draw(st.sampled_from([1, 2, 8]))
    halo = grid * draw(st.integers(0, 2))
    sides = st.integers(2 * halo // grid + 1, 2 * halo // grid + 4).map(lambda n: n * grid)
    buckets = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=3))
    return Geometry(
        scale=draw(st.integers(1, 4)),
        halo=halo,
        size_multiple=grid,
        window=grid if grid == 8 else None,
        buckets=tuple(buckets),
        any_shape=draw(st.booleans()),
    )


def repeat(tile: np.ndarray, scale: int) -> np.ndarray:
    return tile.repeat(scale, axis=0).repeat(scale, axis=1)


def numbered(height: int, width: int) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.float32).reshape(height, width, 3)


@given(height=st.integers(1, 40), width=st.integers(1, 40), geometry=geometries())
def test_join_undoes_split(height: int, width: int, geometry: Geometry) -> None:
    picture = numbered(height, width)
    tile_plan = plan(height, width, geometry)
    tiles = list(cut(picture, tile_plan))
    assert all(tile.shape[:2] == tile_plan.bucket for tile in tiles)
    joined = join([repeat(tile, geometry.scale) for tile in tiles], tile_plan)
    np.testing.assert_array_equal(joined, repeat(picture, geometry.scale))


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    geometry=geometries(),
    order=st.randoms(use_true_random=False),
)
def test_rows_are_yielded_in_order_for_any_tile_order(
    height: int, width: int, geometry: Geometry, order
) -> None:
    picture = numbered(height, width)
    tile_plan = plan(height, width, geometry)
    tiles = list(enumerate(cut(picture, tile_plan)))
    order.shuffle(tiles)
    joiner, strips = Joiner(tile_plan), []
    for index, tile in tiles:
        joiner.add(index, repeat(tile, geometry.scale))
        strips += joiner.strips()
    assert joiner.complete
    np.testing.assert_array_equal(np.concatenate(strips), repeat(picture, geometry.scale))


@given(height=st.integers(1, 30), width=st.integers(1, 30), geometry=geometries())
def test_tiles_are_windows_of_the_padded_whole(height: int, width: int, geometry: Geometry) -> None:
    """A tile equals the same window of the canonical padded picture, and starts on the grid."""
    picture = numbered(height, width)
    whole = padded_whole(picture, geometry)
    assert whole.shape[0] % geometry.grid == whole.shape[1] % geometry.grid == 0
    tile_plan = plan(height, width, geometry)
    for box, tile in zip(tile_plan.boxes, cut(picture, tile_plan), strict=True):
        assert box.top % geometry.grid == box.left % geometry.grid == 0
        part = whole[box.top : box.top + tile.shape[0], box.left : box.left + tile.shape[1]]
        np.testing.assert_array_equal(part, tile[: part.shape[0], : part.shape[1]])
    np.testing.assert_array_equal(
        crop_whole(repeat(whole, geometry.scale), height, width, geometry),
        repeat(picture, geometry.scale),
    )


@given(start=st.integers(-50, 50), length=st.integers(1, 60), side=st.integers(1, 12))
def test_reflection_repeats_for_pictures_smaller_than_the_halo(
    start: int, length: int, side: int
) -> None:
    padded = np.pad(np.arange(side), (120, 120), mode="reflect")
    np.testing.assert_array_equal(
        reflected(start, length, side), padded[120 + start : 120 + start + length]
    )


def test_the_cheapest_bucket_is_chosen() -> None:
    geometry = Geometry(scale=4, halo=8, buckets=((64, 64), (96, 96), (96, 160)))
    assert plan(40, 40, geometry).bucket == (64, 64)
    assert plan(80, 144, geometry).bucket == (96, 160)
    assert plan(80, 144, geometry).waste_ratio == pytest.approx(96 * 160 / (80 * 144))


@pytest.mark.parametrize(
    "wrong",
    [
        {"halo": 3, "size_multiple": 2, "buckets": ((32, 32),)},
        {"halo": 8, "window": 8, "buckets": ((36, 32),)},
        {"halo": 16, "buckets": ((32, 64),)},
        {"halo": 4, "buckets": ()},
    ],
)
def test_impossible_geometries_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"multiple|bucket"):
        Geometry(scale=2, **wrong)


def test_missing_and_misshapen_tiles_are_refused() -> None:
    geometry = Geometry(scale=2, halo=2, buckets=((8, 8),))
    tile_plan = plan(8, 4, geometry)
    joiner = Joiner(tile_plan)
    joiner.add(0, np.zeros((16, 16, 3)))
    with pytest.raises(ValueError, match="1 of 2"):
        joiner.result()
    with pytest.raises(ValueError, match="too small"):
        joiner.add(1, np.zeros((8, 8, 3)))


@given(height=st.integers(1, 60), width=st.integers(1, 60), geometry=geometries())
def test_computed_pixels_are_those_of_the_plan(height: int, width: int, geometry: Geometry) -> None:
    tile_plan = plan(height, width, geometry)
    pixels = len(tile_plan.boxes) * tile_plan.bucket[0] * tile_plan.bucket[1]
    assert computed_pixels(height, width, geometry) == pixels


@pytest.mark.parametrize("bucket", [(16, 16), (16, 32), (24, 40)])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_tile_run_in_parts_has_the_same_core(bucket: tuple[int, int], scale: int) -> None:
    """A network with the halo's receptive field gives the same core in parts as in one tile."""
    geometry = Geometry(scale=scale, halo=4, size_multiple=4, buckets=((16, 16), (40, 56)))
    tile = np.random.default_rng(0).random((40, 56, 3)).astype(np.float32)
    shapes = set()

    def box_filter(part: np.ndarray) -> np.ndarray:
        shapes.add(part.shape[:2])
        total = np.zeros_like(part)
        for rows in range(-4, 5):
            for columns in range(-4, 5):
                total += (rows * 9 + columns) * np.roll(part, (rows, columns), axis=(0, 1))
        return repeat(total, scale)

    result = run_in_parts(tile, geometry, bucket, box_filter)
    core = slice(4 * scale, -4 * scale)
    assert shapes == {bucket}
    assert np.array_equal(result[core, core], box_filter(tile)[core, core])
    assert result.shape == (40 * scale, 56 * scale, 3)


@given(height=st.integers(1, 400), width=st.integers(1, 400))
def test_tiles_of_any_shape_waste_at_most_as_much_as_buckets(height: int, width: int) -> None:
    buckets = Geometry(scale=2, halo=8, buckets=((64, 64), (96, 160), (160, 96), (160, 160)))
    fitted = replace(buckets, any_shape=True)
    tile_plan = plan(height, width, fitted)
    assert tile_plan.waste_ratio <= plan(height, width, buckets).waste_ratio
    assert tile_plan.bucket[0] * tile_plan.bucket[1] <= 160 * 160
