"""Lazy imports of Pillow and pyvips; conversion of Pillow's modes and metadata."""

import ctypes
import io
import logging
import math
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from superres.image.picture import BrokenPicture

if TYPE_CHECKING:
    from PIL import Image

TIFF_BITS_PER_SAMPLE, TIFF_X_RESOLUTION, TIFF_XMP = 258, 282, 700  # the tags


@lru_cache(maxsize=1)
def pillow() -> ModuleType:
    """Pillow's Image module, loaded on first use; its size limit is replaced by `Limits`.

    Errors in a file go into the response, not into the log, which clients could flood otherwise.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # libtiff bypasses logging and writes to standard error; this is the one in Pillow's wheels.
    for library in Path(Image.__file__).parents[1].glob("pillow.libs/libtiff*"):
        ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
    return Image


@lru_cache(maxsize=1)
def pyvips() -> ModuleType:
    """pyvips, loaded on first use; its warnings become errors and are not logged."""
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    import pyvips as module

    return module


def to_plain_mode(image: "Image.Image") -> "Image.Image":
    """Convert to L, LA, RGB, RGBA or I;16; raises BrokenPicture if that would lose bits."""
    has_colour_key = "transparency" in image.info
    if image.mode in ("LA", "RGBA", "I;16") or (image.mode in ("L", "RGB") and not has_colour_key):
        return image
    if image.mode in ("1", "L"):
        return image.convert("LA" if has_colour_key else "L")
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise BrokenPicture("grey pictures of more than 16 bits are not supported")
        return pillow().fromarray(values.astype(np.uint16))
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        return pillow().fromarray(values)
    if image.mode == "F":
        raise BrokenPicture("floating-point samples are not supported; save it as 16 bits")
    if image.mode == "CMYK" and (icc := _profile(image)) is not None:
        converted = _cmyk_to_srgb(image, icc)
        if converted is not None:
            return converted
    if image.mode in ("P", "PA", "RGB") and (has_colour_key or image.mode == "PA"):
        return image.convert("RGBA")
    return image.convert("RGB")


def _cmyk_to_srgb(image: "Image.Image", icc: bytes) -> "Image.Image | None":
    from PIL import ImageCms

    try:
        return ImageCms.profileToProfile(
            image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return None  # unusable profile: fall back to the plain conversion


def icc_of(image: "Image.Image", grey: bool) -> bytes | None:
    """The ICC profile, None if it is for the other kind of pixels (grey or RGB)."""
    icc = _profile(image)
    return icc if icc is not None and icc[16:20] == (b"GRAY" if grey else b"RGB ") else None


def _profile(image: "Image.Image") -> bytes | None:
    profile = image.info.get("icc_profile")
    usable = isinstance(profile, bytes) and len(profile) > 128 and profile[36:40] == b"acsp"
    return profile if usable else None


def dpi_of(image: "Image.Image") -> tuple[float, float] | None:
    if image.format == "TIFF" and TIFF_X_RESOLUTION not in getattr(image, "tag_v2", {}):
        return None  # Pillow would return a default
    try:
        horizontal, vertical = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    sane = all(math.isfinite(value) and 1 <= value <= 100_000 for value in (horizontal, vertical))
    return (horizontal, vertical) if sane else None
