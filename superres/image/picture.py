"""What a picture is inside the house, what is refused of one, and why."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.common.errors import SharplineError

Array = NDArray[Any]


class PictureError(SharplineError):
    """A picture that cannot be taken or made; `status` and `label` are what HTTP answers."""

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
    """What is refused before any pixel is decoded."""

    max_pixels: int = 50_000_000
    max_bytes: int = 64 * 2**20
    max_side: int = 65_500


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself; sides as stored, before any rotation."""

    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Upright pixels and what must survive the way through a model.

    `rgb_hwc` is (H, W, 3) uint8 or uint16, `alpha_hw` (H, W) of the same dtype or None; a grey
    picture has equal channels and `grey` set; `dpi` is (horizontal, vertical); `exif` is a TIFF
    block without thumbnail, orientation or sizes, where its keeping was asked for; `passport` is
    the JSON (see superres.image.passport) that a file of this picture shall carry.
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
    """Equal channels: the rounded mean of the three."""
    total = rgb_hwc.astype(np.uint32).sum(axis=2, keepdims=True)
    return np.repeat(((2 * total + 3) // 6).astype(rgb_hwc.dtype), 3, axis=2)
