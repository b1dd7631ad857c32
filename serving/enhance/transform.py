"""Output options of a request, and the transforms of a picture before the model."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.errors import BadOptions
from superres.image.codecs import LONGEST_SIDE, Picture, check_format_holds, to_srgb
from superres.image.region import BadRegion, Region
from superres.image.resize import imresize

Array = NDArray[Any]

ROUNDING = 1e-6  # tolerance in pixels for floating-point errors of whole numbers
BAND = 256  # rows or columns that are resized at once


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """One picture's options; `shrink` multiplies the input's sides before the model, at most 1."""

    format: str
    quality: int = 95
    icc: Literal["keep", "srgb"] = "keep"
    keep_metadata: bool = False
    region: Region | None = None
    shrink: float = 1.0

    def prepare(self, picture: Picture) -> Picture:
        """The picture for the model. Raises PictureError, or BadOptions for the region."""
        check_format_holds(picture, self.format)
        if self.region is not None:
            try:
                self.region.require_inside(picture.height, picture.width)
            except BadRegion as error:
                raise BadOptions(str(error)) from error
        if self.icc == "srgb":
            picture = to_srgb(picture)
        return picture if self.shrink >= 1 else _shrunk(picture, self.shrink)

    @property
    def region_of_prepared(self) -> Region | None:
        """The region in pixels of the prepared picture."""
        return None if self.region is None else self.region.scaled(min(1.0, self.shrink))


def parse_region(text: str | None) -> Region | None:
    """The region of the option's text. Raises BadOptions."""
    if text is None:
        return None
    try:
        return Region.parse(text)
    except BadRegion as error:
        raise BadOptions(f"region: {error}") from error


def fitting_shrink(width: int, height: int, scale: int, format: str, max_pixels: int) -> float:
    """The factor for the input's sides that makes the answer fit; 1 if it fits without.

    An answer fits with at most `max_pixels` pixels and sides that the format supports.
    """
    by_pixels = math.sqrt(max_pixels / (width * height)) / scale
    if by_pixels * min(width, height) < 1:  # the short side stays at one pixel
        by_pixels = max_pixels / (scale**2 * max(width, height))
    factor = min(by_pixels, LONGEST_SIDE[format] / (scale * max(width, height)))
    if factor >= 1:
        return 1.0
    max_input_pixels = max(1, max_pixels // scale**2)
    while shrunk_side(width, factor) * shrunk_side(height, factor) > max_input_pixels:
        factor *= 1 - ROUNDING  # rounding took a side up to a whole number
    return factor


def shrunk_side(side: int, shrink: float) -> int:
    """A side of the input after shrinking; at least 1."""
    return side if shrink >= 1 else max(1, math.floor(side * shrink + ROUNDING))


def _shrunk(picture: Picture, shrink: float) -> Picture:
    size = shrunk_side(picture.height, shrink), shrunk_side(picture.width, shrink)
    alpha_hw = picture.alpha_hw
    return replace(
        picture,
        rgb_hwc=_resized(picture.rgb_hwc, *size),
        alpha_hw=None if alpha_hw is None else _resized(alpha_hw, *size),
        dpi=None if picture.dpi is None else (picture.dpi[0] * shrink, picture.dpi[1] * shrink),
    )


def _resized(plane: Array, height: int, width: int) -> Array:
    """`imresize` in bands, rows first: 50 megapixels of floats at once would take a gigabyte."""
    bands = [plane[:, left : left + BAND] for left in range(0, plane.shape[1], BAND)]
    low = np.concatenate([imresize(band, size=(height, band.shape[1])) for band in bands], axis=1)
    bands = [low[top : top + BAND] for top in range(0, height, BAND)]
    return np.concatenate([imresize(band, size=(len(band), width)) for band in bands])
