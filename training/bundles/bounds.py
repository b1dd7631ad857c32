"""Error bounds of tiling and reduced precision, relative to the canonical output.

Measured on real pictures with the trained weights: with random weights the bounds are wrong by
orders of magnitude. All values are grey levels of 255.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from superres.model.archs import ArchFacts
from superres.model.backends import Backend
from superres.model.tiling import Geometry, crop_whole, cut, join, padded_whole, plan

HALOS = (8, 12, 16, 24, 32)
# A halo of a deep network's whole receptive field (349 pixels for 23 RRDBs) would make tiles too
# large for memory; the seam of the largest halo above is then measured and stated.
MAX_HALO = 64
# Half a rounding step: above it a seam could become visible.
SEAM_LEVELS = 0.25
CORE = 32
SIDES = (64, 96, 160)
LONG_SIDES = (288, 512)  # with the largest side: an oblong tile has less halo per pixel
PRECISION_SHARE = 99.9  # per cent of the values


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """A halo and the maximum difference between tiled and whole output with it.

    `wholes_bhwc` are the outputs of the padded whole pictures, float32 and not cropped.
    """

    halo: int
    levels: float
    wholes_bhwc: tuple[npt.NDArray[np.float32], ...]


def measure_seam(
    backend: Backend,
    facts: ArchFacts,
    pictures_hwc: Sequence[npt.NDArray[np.uint8]],
) -> Seam:
    """The smallest halo whose seams stay within SEAM_LEVELS, or the largest one tried.

    A halo that reaches the receptive field is exact and ends the search; see MAX_HALO.
    """
    *smaller, largest = halo_candidates(facts)
    for halo in smaller:
        seam = _seam(backend, facts, halo, pictures_hwc, limit=SEAM_LEVELS)
        if seam is not None:
            return seam
    seam = _seam(backend, facts, largest, pictures_hwc, limit=None)
    assert seam is not None, "without a limit there is a seam"
    return seam


def halo_candidates(facts: ArchFacts) -> tuple[int, ...]:
    """Halos to try, in LR pixels, on the network's grid, up to its receptive field if that is
    within MAX_HALO."""
    grid = facts.grid
    rounded = sorted({-(-halo // grid) * grid for halo in HALOS})
    if facts.receptive_field is None:
        return tuple(rounded)
    exact = -(-facts.receptive_field // grid) * grid
    if exact > MAX_HALO:
        return tuple(rounded)
    return (*(halo for halo in rounded if halo < exact), exact)


def tile_buckets(facts: ArchFacts, halo: int) -> tuple[tuple[int, int], ...]:
    """Tile shapes including the halo; few, since every shape is compiled once per process."""
    sides = [side for side in SIDES if side >= 2 * halo + CORE] or [2 * halo + 2 * CORE]
    sides = [-(-side // facts.grid) * facts.grid for side in sides]
    squares = [(side, side) for side in sides]
    large = sides[-2:]
    oblong = [(height, width) for height in large for width in large if height != width]
    if facts.window is None:  # attention takes seconds to compile for each shape
        oblong += [(sides[-1], long) for long in LONG_SIDES if long > sides[-1]]
        oblong += [(long, sides[-1]) for long in LONG_SIDES if long > sides[-1]]
    return tuple(sorted(squares + oblong))


def measure_precision(
    references_bhwc: Sequence[npt.NDArray[np.float32]],
    reduced: Sequence[Backend],
    geometry: Geometry,
    pictures_hwc: Sequence[npt.NDArray[np.uint8]],
) -> float:
    """The PRECISION_SHARE percentile of the absolute error, for the worst of the backends.

    `references_bhwc` are the exact outputs of the pictures, as in `Seam`.
    """
    worst = 0.0
    for picture_hwc, reference in zip(pictures_hwc, references_bhwc, strict=True):
        tile = _floats(padded_whole(picture_hwc, geometry))[None]
        for backend in reduced:
            difference = np.abs(backend.forward(tile) - reference) * 255
            worst = max(worst, float(np.percentile(difference, PRECISION_SHARE)))
    return round(worst, 4)


def _seam(
    backend: Backend,
    facts: ArchFacts,
    halo: int,
    pictures_hwc: Sequence[npt.NDArray[np.uint8]],
    *,
    limit: float | None,
) -> Seam | None:
    """The seam of one halo, None once that of a picture exceeds `limit`."""
    found, wholes_bhwc = [], []
    for picture_hwc in pictures_hwc:
        levels, whole_bhwc = _seam_levels(backend, facts, halo, picture_hwc)
        if limit is not None and not levels <= limit:
            return None
        found.append(levels)
        wholes_bhwc.append(whole_bhwc)
    # np.max, because max() of Python may lose a NaN.
    return Seam(halo=halo, levels=round(float(np.max(found)), 4), wholes_bhwc=tuple(wholes_bhwc))


def _seam_levels(
    backend: Backend,
    facts: ArchFacts,
    halo: int,
    picture_hwc: npt.NDArray[np.uint8],
) -> tuple[float, npt.NDArray[np.float32]]:
    """The largest difference in one picture, and the output of the padded whole picture."""
    side = -(-(CORE + 2 * halo) // facts.grid) * facts.grid
    geometry = Geometry(
        scale=facts.scale,
        halo=halo,
        size_multiple=facts.size_multiple,
        window=facts.window,
        buckets=((side, side),),
    )
    lr_hwc = _floats(picture_hwc)
    height, width = lr_hwc.shape[:2]
    whole_bhwc = backend.forward(padded_whole(lr_hwc, geometry)[None])
    canonical = crop_whole(whole_bhwc[0], height, width, geometry)
    tile_plan = plan(height, width, geometry)
    tiled = join(list(backend.forward(np.stack(list(cut(lr_hwc, tile_plan))))), tile_plan)
    return float(np.abs(tiled - canonical).max()) * 255, whole_bhwc


def _floats(hwc_u8: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return hwc_u8.astype(np.float32) / np.float32(255)
