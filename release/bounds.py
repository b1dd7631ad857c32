"""What tiles and reduced precision cost here, measured against the canonical result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from superres.backends import Backend
from superres.bundle import Bundle
from superres.image import Picture
from superres.tiling import Geometry, crop_whole, cut, join, padded_whole, plan

Array = npt.NDArray[Any]
# As superres.backends.load_backend: a bundle, and by keyword the precision.
BackendLoader = Callable[..., Backend]

PRECISION_QUANTILE = 0.999  # the share of values that a bundle's stated precision bound speaks of


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredBounds:
    """Errors in grey levels of 255: the largest of tiles, and of the precision that serving takes.

    `precision_levels` is the level that 99.9% of the values stay within, 0 for fp32.
    """

    seam_levels: float
    precision: str
    precision_levels: float


def measure_bounds(
    bundle: Bundle, lr: Picture, served: Backend, load: BackendLoader
) -> MeasuredBounds:
    """Run one low-resolution picture whole, in tiles and as served, and compare.

    At most two by two of the smallest tiles are looked at: a seam is the same everywhere, and the
    canonical result costs memory by the pixel.
    """
    geometry = _smallest_tiles(bundle.info.geometry)
    crop_hwc = _unit_crop(lr, 2 * (geometry.buckets[0][0] - 2 * geometry.halo))
    exact = served if served.precision == "fp32" else load(bundle, precision="fp32")
    try:
        whole = _whole(exact, crop_hwc, geometry)
        tiled = _tiled(exact, crop_hwc, geometry)
    finally:
        if exact is not served:
            exact.close()
    as_served = tiled if exact is served else _tiled(served, crop_hwc, geometry)
    return MeasuredBounds(
        seam_levels=float(np.abs(tiled - whole).max()) * 255.0,
        precision=served.precision,
        precision_levels=float(np.quantile(np.abs(as_served - tiled), PRECISION_QUANTILE)) * 255.0,
    )


def _smallest_tiles(geometry: Geometry) -> Geometry:
    return Geometry(
        scale=geometry.scale,
        halo=geometry.halo,
        size_multiple=geometry.size_multiple,
        window=geometry.window,
        buckets=(min(geometry.buckets),),
    )


def _unit_crop(picture: Picture, side: int) -> Array:
    """The picture's upper left corner as float32 in [0, 1]."""
    crop_hwc = picture.rgb_hwc[:side, :side]
    return crop_hwc.astype(np.float32) / np.float32(2**picture.bit_depth - 1)


def _whole(backend: Backend, crop_hwc: Array, geometry: Geometry) -> Array:
    result_hwc = backend.forward(padded_whole(crop_hwc, geometry)[None])[0]
    height, width = crop_hwc.shape[:2]
    return np.clip(crop_whole(result_hwc, height, width, geometry), 0.0, 1.0)


def _tiled(backend: Backend, crop_hwc: Array, geometry: Geometry) -> Array:
    height, width = crop_hwc.shape[:2]
    tile_plan = plan(height, width, geometry)
    results = [backend.forward(tile_hwc[None])[0] for tile_hwc in cut(crop_hwc, tile_plan)]
    return np.clip(join(results, tile_plan), 0.0, 1.0)
