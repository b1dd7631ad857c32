"""Errors of tiling and reduced precision on this machine, against the canonical result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from superres.image.codecs import Picture
from superres.model.backends import Backend
from superres.model.bundle import Bundle
from superres.model.seams import run_tiled, run_whole, seam_levels
from superres.model.tiling import Geometry

Array = npt.NDArray[Any]
# Signature of superres.model.backends.load_backend: a bundle, precision as a keyword.
BackendLoader = Callable[..., Backend]

PRECISION_QUANTILE = 0.999  # the quantile of a bundle's stated precision bound


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredBounds:
    """Errors in grey levels of 255: the largest from tiling, and from the serving precision.

    `precision_levels` is the 99.9% quantile, 0 for fp32.
    """

    seam_levels: float
    precision: str
    precision_levels: float


def measure_bounds(
    bundle: Bundle, lr: Picture, served: Backend, load: BackendLoader
) -> MeasuredBounds:
    """Run one low-resolution picture whole, tiled and as served, and compare the outputs.

    Uses at most 2 x 2 of the smallest tiles: seams are the same everywhere, and the memory of the
    canonical result grows with the pixels.
    """
    geometry = _smallest_tiles(bundle.info.geometry)
    crop_hwc = _unit_crop(lr, 2 * (geometry.buckets[0][0] - 2 * geometry.halo))
    # torch, as for the bounds that the bundle states; it is also the fastest to load.
    exact = (
        served
        if served.precision == "fp32"
        else load(bundle, backend="torch", device=served.device, precision="fp32")
    )
    try:
        whole = run_whole(exact, crop_hwc, geometry)
        tiled = run_tiled(exact, crop_hwc, geometry)
    finally:
        if exact is not served:
            exact.close()
    as_served = tiled if exact is served else run_tiled(served, crop_hwc, geometry)
    return MeasuredBounds(
        seam_levels=float(seam_levels(tiled, whole).max()),
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
