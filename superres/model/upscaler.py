"""Upscaler: split -> forward -> join. Validation, the gate and `enhance` run this."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.image.codecs import Picture
from superres.image.picture import as_grey
from superres.image.resize import imresize
from superres.model.backends import Backend
from superres.model.bundle import Bundle
from superres.model.tiling import Joiner, TilePlan, crop_whole, cut, padded_whole, plan

Array = NDArray[Any]


class Upscaler:
    """A bundle's model on a backend, for pictures of any size."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        self.geometry = replace(bundle.info.geometry, any_shape=backend.any_shape)

    def split(self, picture: Picture) -> tuple[TilePlan, Iterator[Array]]:
        """The plan and the tiles, each (bucket height, bucket width, 3) of the picture's dtype."""
        tile_plan = plan(picture.height, picture.width, self.geometry)
        return tile_plan, cut(picture.rgb_hwc, tile_plan)

    def forward(self, tiles_bhwc: Array) -> Array:
        """Enlarged tiles, (B, H * scale, W * scale, 3)."""
        return self.backend.forward(tiles_bhwc)

    def join(self, tile_plan: TilePlan, results: Iterable[Array], picture: Picture) -> Picture:
        """The enlarged picture from enlarged tiles in the plan's order."""
        joiner = Joiner(tile_plan)
        for index, result_hwc in enumerate(results):
            joiner.add(index, result_hwc)
        return enlarged(picture, joiner.result(), tile_plan.scale)

    def upscale(self, picture: Picture, batch: int = 8) -> Picture:
        """Enlarge a picture in tiles, `batch` at a time."""
        tile_plan, tiles = self.split(picture)
        return self.join(tile_plan, self._run(tiles, batch), picture)

    def whole(self, picture: Picture) -> Picture:
        """Canonical whole-picture inference, without tiles."""
        tile = padded_whole(picture.rgb_hwc, self.geometry)
        result_hwc = self.forward(tile[None])[0]
        rgb_hwc = crop_whole(result_hwc, picture.height, picture.width, self.geometry)
        return enlarged(picture, np.ascontiguousarray(rgb_hwc), self.geometry.scale)

    def _run(self, tiles: Iterator[Array], batch: int) -> Iterator[Array]:
        while group := list(islice(tiles, batch)):
            yield from self.forward(np.stack(group))


def enlarged(picture: Picture, rgb_hwc: Array, scale: int) -> Picture:
    """`picture` with enlarged pixels; grey stays grey, alpha is resampled bicubically."""
    return replace(
        picture,
        rgb_hwc=as_grey(rgb_hwc) if picture.grey else rgb_hwc,
        alpha_hw=None if picture.alpha_hw is None else imresize(picture.alpha_hw, scale=scale),
        dpi=None if picture.dpi is None else (picture.dpi[0] * scale, picture.dpi[1] * scale),
    )
