"""Bytes to pixels and back: the only place that touches codecs.

What is read is upright (EXIF orientation applied once), RGB, 8 or 16 bits; alpha is carried
beside it, grey stays marked as grey, an ICC profile is kept, other metadata is dropped.
"""

import io
import math
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from superres.errors import SharplineError
from superres.files import write_bytes
from superres.png import encode_png

if TYPE_CHECKING:
    from PIL import Image

Array = NDArray[Any]

MAGIC = {
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpeg": (b"\xff\xd8\xff",),
    "webp": (b"RIFF",),
    "gif": (b"GIF87a", b"GIF89a"),
    "tiff": (b"II*\0", b"MM\0*"),
    "bmp": (b"BM",),
}
OUTPUT_FORMATS = ("png", "jpeg", "webp")
SUFFIX_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
PICTURE_SUFFIXES = (*SUFFIX_FORMATS, ".gif", ".tif", ".tiff", ".bmp")
LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
MOST_PNG_CHUNKS = 1_000  # before the pixels; real files have fewer than thirty
STRIPE_ROWS = 256


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
    picture has equal channels and `grey` set; `dpi` is (horizontal, vertical).
    """

    rgb_hwc: Array
    alpha_hw: Array | None = None
    grey: bool = False
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
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


def inspect(data: bytes, limits: Limits = Limits()) -> Header:
    """Read the header only, and refuse what is no picture, lies or is too large.

    Raises TooManyBytes, NotAPicture, BrokenPicture or TooManyPixels.
    """
    if len(data) > limits.max_bytes:
        raise TooManyBytes(
            f"the file has {len(data):,} bytes; at most {limits.max_bytes:,} are taken"
        )
    return _opened(data, limits)[1]


def decode(data: bytes, *, name: str = "", limits: Limits = Limits()) -> Picture:
    """Pixels of a PNG, JPEG, WebP, GIF (first frame), TIFF or BMP file; its content decides.

    Raises as `inspect` does, and BrokenPicture where the pixels cannot be decoded whole.
    """
    inspect(data, limits)
    image, header = _opened(data, limits)
    with _broken_if_it_fails():
        if header.format == "png" and _png_bit_depth(data) == 16 and image.mode != "I;16":
            return _decode_deep_png(data, image, name)
        image.load()
        return _picture(image, name)


def read(path: Path, limits: Limits = Limits()) -> Picture:
    """The picture in a file, named after it. Raises PictureError naming the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SharplineError(f"cannot read {path}: {error.strerror}") from error
    try:
        return decode(data, name=path.stem, limits=limits)
    except PictureError as error:
        raise type(error)(f"{path}: {error}") from error


def encode(picture: Picture, format: str, *, quality: int = 95) -> bytes:
    """A whole file of the picture. Raises FormatCannotHold."""
    return b"".join(encode_stripes(picture, _row_stripes(picture), format, quality=quality))


def encode_stripes(
    frame: Picture, stripes: Iterable[Picture], format: str, *, quality: int = 95
) -> Iterator[bytes]:
    """A file from stripes of rows that arrive one after the other.

    `frame` gives the size, depth and metadata of the whole; PNG is written as the stripes come,
    JPEG and WebP once they are all there. Raises FormatCannotHold before anything is yielded.
    """
    check_format_holds(frame, format)
    if format == "png":
        yield from encode_png(
            (_samples(stripe) for stripe in stripes),
            height=frame.height,
            width=frame.width,
            channels=(1 if frame.grey else 3) + (frame.alpha_hw is not None),
            bit_depth=frame.bit_depth,
            icc=frame.icc,
            dpi=frame.dpi,
        )
        return
    samples = np.concatenate([_samples(stripe) for stripe in stripes])
    yield _encode_with_pillow(frame, samples, format, quality)


def check_format_holds(frame: Picture, format: str) -> None:
    """Raise FormatCannotHold where the format has no room for the picture's size or alpha."""
    if format not in OUTPUT_FORMATS:
        raise FormatCannotHold(
            f"{format!r} is not written here; choose one of {', '.join(OUTPUT_FORMATS)}"
        )
    longest = LONGEST_SIDE[format]
    if max(frame.height, frame.width) > longest:
        raise FormatCannotHold(
            f"{format} holds sides up to {longest:,} pixels, this picture has "
            f"{frame.width:,}x{frame.height:,}; choose png"
        )
    if format == "jpeg" and frame.alpha_hw is not None:
        opaque = np.iinfo(frame.alpha_hw.dtype).max
        if frame.alpha_hw.size and frame.alpha_hw.min() != opaque:
            raise FormatCannotHold("jpeg holds no transparency, this picture has some; "
                                   "choose png or webp")


def write(path: Path, picture: Picture, *, quality: int = 95) -> None:
    """Write a file whole or not at all; the suffix names the format."""
    format = SUFFIX_FORMATS.get(path.suffix.lower())
    if format is None:
        raise FormatCannotHold(f"{path}: the suffix must be one of {', '.join(SUFFIX_FORMATS)}")
    write_bytes(path, encode(picture, format, quality=quality))


def list_pictures(folder: Path) -> list[Path]:
    """Files in `folder` (not below it) with a picture's suffix, by name."""
    if not folder.is_dir():
        raise SharplineError(f"{folder} is not a folder")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def clean_name(name: str) -> str:
    """A file name fit for a header or a disk: no folders, no control characters, 100 long."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.\- ]", "_", last).strip(". ")[:100] or "picture"


@lru_cache(maxsize=1)
def _pillow() -> ModuleType:
    """Pillow's Image module, loaded on first use; its own size guess gives way to our limits."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return Image


def _opened(data: bytes, limits: Limits) -> "tuple[Image.Image, Header]":
    format = _sniff(data)
    if format == "png":
        _check_png(data)
    with _broken_if_it_fails():
        image = _pillow().open(io.BytesIO(data), formats=[format.upper()])
    header = Header(format=format, width=image.width, height=image.height)
    if min(image.size) < 1:
        raise BrokenPicture("the picture has no pixels")
    if max(image.size) > limits.max_side or image.width * image.height > limits.max_pixels:
        raise TooManyPixels(
            f"{image.width:,}x{image.height:,} pixels are too many; at most "
            f"{limits.max_pixels:,} in all and {limits.max_side:,} a side are taken"
        )
    return image, header


def _sniff(data: bytes) -> str:
    for format, starts in MAGIC.items():
        if data.startswith(starts) and (format != "webp" or data[8:12] == b"WEBP"):
            if len(data) < 20:
                break
            return format
    raise NotAPicture("this is not a picture that is taken here; send PNG, JPEG, WebP, GIF, "
                      "TIFF or BMP")


def _check_png(data: bytes) -> None:
    """Refuse absurd numbers of chunks, which cost decoders minutes."""
    position, chunks = 8, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"IEND"):
            return
        chunks += 1
        if chunks > MOST_PNG_CHUNKS:
            raise BrokenPicture(f"the PNG has over {MOST_PNG_CHUNKS} chunks ahead of its pixels")
        position += 12 + length


def _png_bit_depth(data: bytes) -> int:
    return data[24]


class _broken_if_it_fails:  # noqa: N801 - reads as a statement
    """Turn whatever a decoder throws at bad input into BrokenPicture."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, PictureError) or not isinstance(error, Exception):
            return
        if isinstance(error, MemoryError):
            return
        raise BrokenPicture(f"the picture is damaged and cannot be decoded ({error})") from error


def _decode_deep_png(data: bytes, image: "Image.Image", name: str) -> Picture:
    """Colour PNGs of 16 bits, which Pillow would cut to 8 without a word."""
    from pyvips import Image as VipsImage

    pixels = VipsImage.new_from_buffer(data, "", access="sequential", fail_on="warning").numpy()
    rgb_hwc, alpha_hw = _split_samples(np.atleast_3d(pixels))
    picture = Picture(
        rgb_hwc=rgb_hwc,
        alpha_hw=alpha_hw,
        grey=pixels.ndim == 2 or pixels.shape[2] < 3,
        icc=_icc(image),
        dpi=_dpi(image),
        name=name,
    )
    return _upright(picture, _orientation(image))


def _split_samples(samples_hwc: Array) -> tuple[Array, Array | None]:
    """RGB and alpha of 1 to 4 channels."""
    channels = samples_hwc.shape[2]
    alpha_hw = np.ascontiguousarray(samples_hwc[..., -1]) if channels in (2, 4) else None
    if channels < 3:
        return np.repeat(samples_hwc[..., :1], 3, axis=2), alpha_hw
    return np.ascontiguousarray(samples_hwc[..., :3]), alpha_hw


def _picture(image: "Image.Image", name: str) -> Picture:
    icc, dpi, orientation = _icc(image), _dpi(image), _orientation(image)
    image = _to_plain_mode(image, icc)
    samples = np.asarray(image)
    rgb_hwc, alpha_hw = _split_samples(np.atleast_3d(samples))
    grey = image.mode in ("L", "LA", "I;16")
    if icc is not None and icc[16:20] != (b"GRAY" if grey else b"RGB "):
        icc = None
    picture = Picture(rgb_hwc=rgb_hwc, alpha_hw=alpha_hw, grey=grey, icc=icc, dpi=dpi, name=name)
    return _upright(picture, orientation)


def _to_plain_mode(image: "Image.Image", icc: bytes | None) -> "Image.Image":
    """One of L, LA, RGB, RGBA, I;16; raises for what has no faithful conversion."""
    if image.mode in ("L", "RGB", "I;16") and "transparency" not in image.info:
        return image
    if image.mode in ("LA", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("L", "I;16"):  # with a transparent grey value
        return image.convert("LA") if image.mode == "L" else image
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise BrokenPicture("grey pictures of more than 16 bits are not taken")
        return _pillow().fromarray(values.astype(np.uint16))
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        return _pillow().fromarray(values)
    if image.mode == "F":
        raise BrokenPicture("pictures of floating-point samples are not taken; save it as 16 bits")
    if image.mode == "CMYK" and icc is not None:
        converted = _cmyk_to_srgb(image, icc)
        if converted is not None:
            return converted
    if image.mode in ("P", "PA", "RGB") and ("transparency" in image.info or image.mode == "PA"):
        return image.convert("RGBA")
    return image.convert("RGB")


def _cmyk_to_srgb(image: "Image.Image", icc: bytes) -> "Image.Image | None":
    from PIL import ImageCms

    try:
        return ImageCms.profileToProfile(
            image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return None  # a garbage profile: the plain conversion is the best there is


def _icc(image: "Image.Image") -> bytes | None:
    profile = image.info.get("icc_profile")
    usable = isinstance(profile, bytes) and len(profile) > 128 and profile[36:40] == b"acsp"
    return profile if usable else None


def _dpi(image: "Image.Image") -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    sane = all(math.isfinite(value) and 1 <= value <= 100_000 for value in (horizontal, vertical))
    return (horizontal, vertical) if sane else None


def _orientation(image: "Image.Image") -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _upright(picture: Picture, orientation: int) -> Picture:
    """Apply EXIF orientation 2 to 8; anything else leaves the picture as it is."""
    if orientation not in range(2, 9):
        return picture
    def turn(plane: Array) -> Array:
        if orientation >= 5:
            plane = plane.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            plane = plane[::-1]
        if orientation in (2, 3, 6, 7):
            plane = plane[:, ::-1]
        return np.ascontiguousarray(plane)

    dpi = picture.dpi
    return replace(
        picture,
        rgb_hwc=turn(picture.rgb_hwc),
        alpha_hw=None if picture.alpha_hw is None else turn(picture.alpha_hw),
        dpi=(dpi[1], dpi[0]) if dpi and orientation >= 5 else dpi,
    )


def _row_stripes(picture: Picture) -> Iterator[Picture]:
    for top in range(0, picture.height, STRIPE_ROWS):
        rows = slice(top, top + STRIPE_ROWS)
        alpha_hw = None if picture.alpha_hw is None else picture.alpha_hw[rows]
        yield replace(picture, rgb_hwc=picture.rgb_hwc[rows], alpha_hw=alpha_hw)


def _samples(stripe: Picture) -> Array:
    """Interleaved channels as the file stores them: grey or RGB, then alpha."""
    colour = stripe.rgb_hwc[..., :1] if stripe.grey else stripe.rgb_hwc
    if stripe.alpha_hw is None:
        return colour
    return np.concatenate((colour, stripe.alpha_hw[..., None]), axis=2)


def _encode_with_pillow(frame: Picture, samples: Array, format: str, quality: int) -> bytes:
    """JPEG and WebP, which hold 8 bits: 16 are rounded to 8."""
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if format == "jpeg" and frame.alpha_hw is not None:
        samples = samples[..., :-1]
    if format == "webp" and samples.shape[2] == 2:
        samples = np.concatenate((np.repeat(samples[..., :1], 3, axis=2), samples[..., 1:]), 2)
    image = _pillow().fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    options: dict[str, Any] = {"quality": quality}
    if frame.icc:
        options["icc_profile"] = frame.icc
    if format == "jpeg" and frame.dpi:
        options["dpi"] = tuple(round(value) for value in frame.dpi)
    if format == "webp":
        options["method"] = 2
    buffer = io.BytesIO()
    image.save(buffer, format.upper(), **options)
    return buffer.getvalue()
