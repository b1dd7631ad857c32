"""The in-memory picture, its limits and its errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.common.errors import SharplineError

Array = NDArray[Any]


class PictureError(SharplineError):
    """A picture that cannot be decoded or encoded; `status` and `label` go into HTTP responses."""

    status = 422
    label = "broken-picture"


class NotAPicture(PictureError):
    status, label = 415, "not-a-picture"


class BrokenPicture(PictureError):
    status, label = 422, "broken-picture"


class TooManyPixels(PictureError):
    status, label = 422, "too-many-pixels"


class TooManyBytes(PictureError):
    status, label = 413, "too-many-bytes"


class FormatCannotHold(PictureError):
    status, label = 406, "format-cannot-hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits checked before any pixel is decoded."""

    max_pixels: int = 50_000_000
    max_bytes: int = 64 * 2**20
    max_side: int = 65_500


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A file's header; sides as stored, before EXIF orientation."""

    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Upright pixels, and the metadata that is carried to the output.

    `rgb_hwc` is (H, W, 3) uint8 or uint16, `alpha_hw` (H, W) of the same dtype or None; a grey
    picture has equal channels and `grey` set; `dpi` is (horizontal, vertical); `exif` is a TIFF
    block without thumbnail, orientation or sizes, if metadata is kept; `passport` is the JSON to
    embed in the file (see superres.image.passport).
    """

    rgb_hwc: Array
    alpha_hw: Array | None = None
    grey: bool = False
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    exif: bytes | None = None
    passport: str | None = None
    name: str = ""

    @property
    def height(self) -> int:
        return self.rgb_hwc.shape[0]

    @property
    def width(self) -> int:
        return self.rgb_hwc.shape[1]

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def bit_depth(self) -> int:
        return 8 * self.rgb_hwc.dtype.itemsize


def as_grey(rgb_hwc: Array) -> Array:
    """Three equal channels: the rounded mean of the input's."""
    total = rgb_hwc.astype(np.uint32).sum(axis=2, keepdims=True)
    return np.repeat(((2 * total + 3) // 6).astype(rgb_hwc.dtype), 3, axis=2)


def as_8_bits(samples: Array) -> NDArray[np.uint8]:
    """16-bit samples rounded to 8 bits."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
