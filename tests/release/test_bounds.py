"""Errors of tiling and precision are measured with fake backends whose errors are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from release.bounds import measure_bounds
from superres.image.codecs import Picture
from superres.model.tiling import Geometry

HALO, SMALLEST = 2, (8, 10)
CROP = 2 * (SMALLEST[0] - 2 * HALO)
WHOLE = CROP + 2 * HALO
BUNDLE = SimpleNamespace(
    info=SimpleNamespace(
        geometry=Geometry(scale=2, halo=HALO, buckets=((16, 16), SMALLEST, (12, 32)))
    )
)
LR = Picture(rgb_hwc=np.random.default_rng(0).integers(9, 200, (30, 40, 3), dtype=np.uint8))


class FakeBackend:
    """Repeats pixels; adds `seam_levels` to tiles and `error_levels` to one output row of them."""

    device = "cpu"

    def __init__(self, precision="fp32", *, seam_levels=0.0, error_levels=0.0):
        self.precision = precision
        self.closed = False
        self.inputs = []
        self._seam, self._error = seam_levels / 255, error_levels / 255

    def forward(self, lr_bhwc):
        self.inputs.append(lr_bhwc)
        large = lr_bhwc.repeat(2, axis=1).repeat(2, axis=2)
        if lr_bhwc.shape[1:3] != (WHOLE, WHOLE):
            large = large + np.float32(self._seam)
            large[:, SMALLEST[0]] += np.float32(self._error)
        return large

    def close(self):
        self.closed = True


def no_loader(bundle, **options):
    raise AssertionError("the served model is exact already")


def test_an_exact_model_is_measured_by_itself_on_four_of_the_smallest_tiles():
    served = FakeBackend(seam_levels=3.0)
    bounds = measure_bounds(BUNDLE, LR, served, no_loader)
    assert bounds.seam_levels == pytest.approx(3.0, abs=1e-3)
    assert (bounds.precision, bounds.precision_levels) == ("fp32", 0.0)
    shapes = [lr_bhwc.shape for lr_bhwc in served.inputs]
    assert sorted(shapes) == [*[(1, *SMALLEST, 3)] * 4, (1, WHOLE, WHOLE, 3)]
    whole = next(lr_bhwc for lr_bhwc in served.inputs if lr_bhwc.shape[1] == WHOLE)
    inner = whole[0, HALO:-HALO, HALO:-HALO]
    np.testing.assert_allclose(inner, LR.rgb_hwc[:CROP, :CROP] / 255, atol=1e-6)
    assert not served.closed


def test_reduced_precision_is_compared_with_the_exact_model_in_the_same_tiles():
    served, exact = FakeBackend("bf16", error_levels=2.0), FakeBackend(seam_levels=3.0)
    asked = []

    def load(bundle, **options):
        asked.append((bundle, options))
        return exact

    bounds = measure_bounds(BUNDLE, LR, served, load)
    [(bundle, options)] = asked
    assert bundle is BUNDLE
    assert options == {"backend": "torch", "device": "cpu", "precision": "fp32"}
    assert bounds.seam_levels == pytest.approx(3.0, abs=1e-3)
    assert bounds.precision == "bf16"
    assert bounds.precision_levels == pytest.approx(3.0, abs=1e-3), "3 without the row, 1 in it"
    assert exact.closed
    assert not served.closed


@pytest.mark.parametrize("grid", [{"size_multiple": 4}, {"window": 4}])
def test_small_pictures_are_padded_as_the_model_requires(grid):
    geometry = Geometry(scale=2, halo=4, buckets=((12, 12),), **grid)
    served = FakeBackend()
    bundle = SimpleNamespace(info=SimpleNamespace(geometry=geometry))
    measure_bounds(bundle, Picture(rgb_hwc=LR.rgb_hwc[:5, :7]), served, no_loader)
    assert served.inputs[0].shape == (1, 16, 16, 3)


def test_sixteen_bit_pictures_are_scaled_by_their_own_range():
    served = FakeBackend()
    picture = Picture(rgb_hwc=np.full((20, 20, 3), 65_535, np.uint16))
    measure_bounds(BUNDLE, picture, served, no_loader)
    assert {float(lr_bhwc.max()) for lr_bhwc in served.inputs} == {1.0}


def test_the_exact_model_is_closed_when_it_fails():
    class Failing(FakeBackend):
        def forward(self, lr_bhwc):
            raise MemoryError

    exact = Failing()
    with pytest.raises(MemoryError):
        measure_bounds(BUNDLE, LR, FakeBackend("bf16"), lambda bundle, **_: exact)
    assert exact.closed
