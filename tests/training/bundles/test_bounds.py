"""Halos, buckets and bounds are measured on the network's grid."""

import numpy as np
import pytest

from superres.model.archs import ArchFacts
from superres.model.tiling import Geometry
from training.bundles.bounds import (
    SEAM_LEVELS,
    halo_candidates,
    measure_precision,
    measure_seam,
    tile_buckets,
)

CONV = ArchFacts(scale=1, receptive_field=18, size_multiple=1, window=None)
WINDOWED = ArchFacts(scale=1, receptive_field=None, size_multiple=8, window=8)
DEEP = ArchFacts(scale=1, receptive_field=349, size_multiple=1, window=None)


class Blur:
    """A backend that averages a row over `radius` pixels on both sides, plus a constant error."""

    name, device, precision = "blur", "cpu", "fp32"
    any_shape = False

    def __init__(self, radius: int, error: float = 0.0) -> None:
        self.radius, self.error = radius, error

    def forward(self, tiles_bhwc: np.ndarray) -> np.ndarray:
        padded = np.pad(tiles_bhwc, ((0, 0), (0, 0), (self.radius, self.radius), (0, 0)))
        width = tiles_bhwc.shape[2]
        shifts = [padded[:, :, start : start + width] for start in range(2 * self.radius + 1)]
        return np.mean(shifts, axis=0, dtype=np.float32) + np.float32(self.error)

    def warm_up(self, shapes_hw: object) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)]


@pytest.mark.parametrize(
    ("facts", "halos"),
    [(CONV, (8, 12, 16, 18)), (WINDOWED, (8, 16, 24, 32)), (DEEP, (8, 12, 16, 24, 32))],
)
def test_halo_candidates_end_at_the_receptive_field_within_max_halo(
    facts: ArchFacts, halos: tuple[int, ...]
) -> None:
    assert halo_candidates(facts) == halos


@pytest.mark.parametrize(("radius", "halo"), [(5, 8), (11, 12), (18, 18)])
def test_the_smallest_sufficient_halo_is_found(
    radius: int, halo: int, pictures: list[np.ndarray]
) -> None:
    seam = measure_seam(Blur(radius), CONV, pictures)
    assert seam.halo == halo
    assert seam.levels < 0.001


def test_a_halo_must_suffice_for_every_picture(pictures: list[np.ndarray]) -> None:
    """A constant picture has no seams at any halo."""
    flat = np.full((64, 64, 3), 90, np.uint8)
    for order in ([flat, *pictures], [*pictures, flat]):
        backend = Blur(11)
        seam = measure_seam(backend, CONV, order)
        assert seam.halo == 12
        assert len(seam.wholes_bhwc) == 2


def test_a_seam_beyond_every_halo_is_reported(pictures: list[np.ndarray]) -> None:
    seam = measure_seam(Blur(40), WINDOWED, pictures)
    assert seam.halo == 32
    assert seam.levels > SEAM_LEVELS


def test_a_network_without_numbers_has_no_small_seam(pictures: list[np.ndarray]) -> None:
    assert np.isnan(measure_seam(Blur(3, float("nan")), CONV, pictures).levels)


@pytest.mark.parametrize("facts", [CONV, WINDOWED, DEEP])
def test_buckets_fit_their_halo_and_grid(facts: ArchFacts) -> None:
    for halo in halo_candidates(facts):
        buckets = tile_buckets(facts, halo)
        Geometry(
            scale=1,
            halo=halo,
            size_multiple=facts.size_multiple,
            window=facts.window,
            buckets=buckets,
        )
        assert 1 <= len(buckets) <= (5 if facts.window else 9)


def test_precision_is_that_of_the_worst_backend(pictures: list[np.ndarray]) -> None:
    seam = measure_seam(Blur(3), CONV, pictures)
    geometry = Geometry(scale=1, halo=seam.halo, buckets=((64, 64),))
    reduced = [Blur(3, 1 / 255), Blur(3, 2 / 255)]
    levels = measure_precision(seam.wholes_bhwc, reduced, geometry, pictures)
    assert levels == pytest.approx(2.0, abs=0.01)
    assert measure_precision(seam.wholes_bhwc, [Blur(3)], geometry, pictures) == 0.0
