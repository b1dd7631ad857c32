"""Tile seams: the difference of tiled and whole-picture inference, before rounding."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.image.codecs import Picture
from superres.model.backends import Backend, as_dtype
from superres.model.tiling import Geometry, crop_whole, cut, join, padded_whole, plan
from superres.model.upscaler import Upscaler, enlarged

Array = NDArray[Any]
Unit = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledAndWhole:
    """A picture enlarged in tiles and whole, as `Upscaler.upscale` and `Upscaler.whole` return it.

    `levels_hw` (H, W) is the largest difference over the channels, in grey levels of 255.
    """

    tiled: Picture
    whole: Picture
    levels_hw: NDArray[np.float32]


def run_tiled_and_whole(upscaler: Upscaler, picture: Picture) -> TiledAndWhole:
    """Enlarge a picture in tiles and whole; takes twice the time."""
    unit_hwc = picture.rgb_hwc.astype(np.float32) / np.float32(2**picture.bit_depth - 1)
    tiled_hwc = run_tiled(upscaler.backend, unit_hwc, upscaler.geometry)
    whole_hwc = run_whole(upscaler.backend, unit_hwc, upscaler.geometry)
    outputs = [
        enlarged(picture, as_dtype(result_hwc, picture.rgb_hwc.dtype), upscaler.geometry.scale)
        for result_hwc in (tiled_hwc, whole_hwc)
    ]
    return TiledAndWhole(
        tiled=outputs[0], whole=outputs[1], levels_hw=seam_levels(tiled_hwc, whole_hwc)
    )


def seam_levels(tiled_hwc: Unit, whole_hwc: Unit) -> NDArray[np.float32]:
    """The largest absolute difference over the channels, in grey levels of 255: (H, W)."""
    return np.abs(tiled_hwc - whole_hwc).max(axis=2) * np.float32(255)


def run_whole(backend: Backend, unit_hwc: Unit, geometry: Geometry) -> Unit:
    """Canonical whole-picture inference on float32 pixels in [0, 1], clipped to that range."""
    result_hwc = backend.forward(padded_whole(unit_hwc, geometry)[None])[0]
    height, width = unit_hwc.shape[:2]
    return np.clip(crop_whole(result_hwc, height, width, geometry), 0.0, 1.0)


def run_tiled(backend: Backend, unit_hwc: Unit, geometry: Geometry) -> Unit:
    """As `run_whole` in tiles of the geometry's buckets, one at a time."""
    height, width = unit_hwc.shape[:2]
    tile_plan = plan(height, width, geometry)
    results = [backend.forward(tile_hwc[None])[0] for tile_hwc in cut(unit_hwc, tile_plan)]
    return np.clip(join(results, tile_plan), 0.0, 1.0)
