"""Decoding: the header is checked first, and every decoder error becomes a PictureError."""

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from superres.image.exif import kept_exif, orientation_of
from superres.image.jpeg_header import require_few_scans
from superres.image.picture import (
    DEFAULT_LIMITS,
    Array,
    BrokenPicture,
    Header,
    Limits,
    NotAPicture,
    Picture,
    PictureError,
    TooManyBytes,
    TooManyPixels,
)
from superres.image.pillow_modes import (
    TIFF_BITS_PER_SAMPLE,
    TIFF_XMP,
    dpi_of,
    icc_of,
    pillow,
    pyvips,
    to_plain_mode,
)
from superres.image.png_chunks import SIGNATURE
from superres.image.png_header import (
    GREY,
    RGB,
    RGBA,
    bit_depth,
    colour_type,
    has_metadata_after_pixels,
    require_all_rows,
    require_few_chunks,
)

if TYPE_CHECKING:
    from PIL import Image

MAGIC = {
    "png": (SIGNATURE,),
    "jpeg": (b"\xff\xd8\xff",),
    "webp": (b"RIFF",),
    "gif": (b"GIF87a", b"GIF89a"),
    "tiff": (b"II*\0", b"MM\0*"),
    "bmp": (b"BM",),
    "avif": (b"avif", b"avis"),  # the brand, after a box's length and type
}
SHORTEST_FILE = 20  # bytes; anything shorter is at most a signature


def inspect(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Read the header only; refuse files that are no picture, inconsistent or too large.

    Raises TooManyBytes, NotAPicture, BrokenPicture or TooManyPixels.
    """
    if len(data) > limits.max_bytes:
        raise TooManyBytes(
            f"the file has {len(data):,} bytes; at most {limits.max_bytes:,} are allowed"
        )
    return _open(data, limits)[1]


def decode(
    data: bytes,
    *,
    name: str = "",
    limits: Limits = DEFAULT_LIMITS,
    keep_metadata: bool = False,
) -> Picture:
    """Decode a PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF file, detected by its content.

    Only the first frame or page is decoded. EXIF is dropped unless `keep_metadata`. Raises as
    `inspect` does, and BrokenPicture if the pixels cannot be decoded completely.
    """
    inspect(data, limits)
    image, header = _open(data, limits)
    with _translate_decoder_errors():
        if _needs_vips(header.format, data, image):
            picture = _decode_with_vips(data, image)
        else:
            if header.format == "png":
                require_all_rows(data)
            elif header.format == "jpeg":
                require_few_scans(data)
            image.load()
            picture = _upright_picture(np.asarray(to_plain_mode(image)), image)
        exif = kept_exif(image) if keep_metadata else None
        return replace(picture, name=name, exif=exif)


def xmp_of(data: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The file's raw XMP packet, empty if it has none; raises as `inspect`."""
    image, header = _open(data, limits)
    with _translate_decoder_errors():
        tags = getattr(image, "tag_v2", {}) if header.format == "tiff" else {}
        packet = tags.get(TIFF_XMP) or image.info.get("xmp") or b""
    if isinstance(packet, tuple):  # a TIFF may store it as a tuple of bytes
        packet = bytes(packet)
    return packet if isinstance(packet, bytes) else b""


def _open(data: bytes, limits: Limits) -> "tuple[Image.Image, Header]":
    format = _sniff(data)
    if format == "png":
        require_few_chunks(data)
    with _translate_decoder_errors():
        image = _open_header(data, format)
    header = Header(format=format, width=image.width, height=image.height)
    if min(image.size) < 1:
        raise BrokenPicture("the picture has no pixels")
    if max(image.size) > limits.max_side or image.width * image.height > limits.max_pixels:
        raise TooManyPixels(
            f"{image.width:,}x{image.height:,} pixels are too many; at most "
            f"{limits.max_pixels:,} in all and {limits.max_side:,} per side are allowed"
        )
    return image, header


def _open_header(data: bytes, format: str) -> "Image.Image":
    from PIL import UnidentifiedImageError

    try:
        return pillow().open(io.BytesIO(data), formats=[format.upper()])
    except UnidentifiedImageError as error:  # its message only names a Python object
        raise BrokenPicture(
            f"the header is damaged, or this kind of {format} is not supported; save the picture "
            "as RGB or grey and send that"
        ) from error


def _sniff(data: bytes) -> str:
    for format, starts in MAGIC.items():
        if format == "avif":
            matches = data[4:8] == b"ftyp" and data[8:12] in starts
        else:
            matches = data.startswith(starts) and (format != "webp" or data[8:12] == b"WEBP")
        if matches and len(data) >= SHORTEST_FILE:
            return format
    raise NotAPicture(
        "this is not a supported picture; send PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF"
    )


def _needs_vips(format: str, data: bytes, image: "Image.Image") -> bool:
    """Whether libvips decodes the file: more than 8 bits per sample, which Pillow truncates
    silently; a PNG with a transparent grey, which Pillow only supports at 8 bits; or an 8-bit RGB
    or RGBA PNG, which libvips decodes in half the time and never pads with black."""
    if format == "png":
        has_colour_key = "transparency" in image.info
        if has_colour_key and colour_type(data) == GREY:
            return True
        plain = image.mode in ("RGB", "RGBA") and not has_colour_key
        if bit_depth(data) == 8:
            colours = colour_type(data) in (RGB, RGBA)
            return plain and colours and not has_metadata_after_pixels(data)
        return bit_depth(data) == 16 and image.mode != "I;16"
    if format == "tiff":
        depths = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, (8,))
        return image.mode in ("RGB", "RGBA", "LA") and max(depths) == 16
    return False


class _translate_decoder_errors:  # noqa: N801 - used as a context manager
    """Raise any error of a decoder as BrokenPicture."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, PictureError) or not isinstance(error, Exception):
            return
        if isinstance(error, MemoryError):
            return
        detail = " ".join(str(error).split())
        raise BrokenPicture(f"the picture is damaged and cannot be decoded ({detail})") from error


def _decode_with_vips(data: bytes, image: "Image.Image") -> Picture:
    """Decode a file of 8 or 16 bits; `image` is its header, opened by Pillow."""
    vips = pyvips()
    try:
        pixels = vips.Image.new_from_buffer(
            data, "", access="sequential", fail_on="warning"
        ).numpy()
    except vips.Error:
        if image.format == "PNG":
            require_all_rows(data)  # raises a more precise error
        raise
    if pixels.dtype not in (np.uint8, np.uint16):
        raise BrokenPicture("floating-point samples are not supported; save it as 16 bits")
    return _upright_picture(pixels, image)


def _upright_picture(samples: Array, image: "Image.Image") -> Picture:
    """The picture of samples (H, W) or (H, W, 1 to 4) as stored, with the metadata of `image`."""
    samples_hwc = np.atleast_3d(samples)
    rgb_hwc, alpha_hw = _split_samples(samples_hwc)
    grey = samples_hwc.shape[2] < 3
    picture = Picture(
        rgb_hwc=rgb_hwc, alpha_hw=alpha_hw, grey=grey, icc=icc_of(image, grey), dpi=dpi_of(image)
    )
    return _apply_orientation(picture, orientation_of(image))


def _split_samples(samples_hwc: Array) -> tuple[Array, Array | None]:
    """Split 1 to 4 channels into RGB and alpha."""
    channels = samples_hwc.shape[2]
    alpha_hw = np.ascontiguousarray(samples_hwc[..., -1]) if channels in (2, 4) else None
    if channels < 3:
        return np.repeat(samples_hwc[..., :1], 3, axis=2), alpha_hw
    return np.ascontiguousarray(samples_hwc[..., :3]), alpha_hw


def _apply_orientation(picture: Picture, orientation: int) -> Picture:
    """Apply EXIF orientation 2 to 8; other values leave the picture unchanged."""
    if orientation not in range(2, 9):
        return picture

    def oriented(plane: Array) -> Array:
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
        rgb_hwc=oriented(picture.rgb_hwc),
        alpha_hw=None if picture.alpha_hw is None else oriented(picture.alpha_hw),
        dpi=(dpi[1], dpi[0]) if dpi and orientation >= 5 else dpi,
    )
