"""Encoding: PNG strip by strip, every other format once the whole picture is available."""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from superres.image.passport import KEYWORD, xmp_packet
from superres.image.picture import Array, FormatCannotHold, Picture, as_8_bits
from superres.image.pillow_modes import pillow
from superres.image.png import METRES_PER_INCH, PngWriter

RAW = "raw"  # no file format: rows of interleaved samples
OUTPUT_FORMATS = ("png", "jpeg", "webp", "tiff", "avif")
# Longer AVIF sides can be written, but libavif, which browsers use, refuses to read them.
LONGEST_SIDE = {
    "png": 2**31 - 1,
    "jpeg": 65_500,
    "webp": 16_383,
    "tiff": 10_000_000,
    "avif": 32_768,
    RAW: 2**31 - 1,
}
STRIP_ROWS = 256
WEBP_METHOD = 2  # of 6; higher ones save a few per cent and take several times as long
AVIF_SPEED = 9  # of 10: as fast as WebP, and still the smaller file
MAX_JPEG_DPI = 65_535


def encode(picture: Picture, format: str, *, quality: int = 95) -> bytes:
    """Encode the picture as a file. Raises FormatCannotHold."""
    encoder = StripEncoder(picture, format, quality=quality)
    return b"".join([*map(encoder.add, _row_strips(picture)), encoder.end()])


def encode_jpeg(
    rgb_hwc_u8: Array,
    *,
    subsampling: str,
    quality: int | None = None,
    photoshop: str | None = None,
) -> bytes:
    """A JPEG of 8-bit RGB with libjpeg's tables at a quality, or a Photoshop preset's tables.

    `subsampling` is "4:4:4", "4:2:2" or "4:2:0".
    """
    options: dict[str, Any] = {"quality": quality}
    if photoshop is not None:
        from PIL.JpegPresets import presets

        options = {"qtables": presets[photoshop]["quantization"]}
    buffer = io.BytesIO()
    pillow().fromarray(rgb_hwc_u8).save(buffer, "JPEG", subsampling=subsampling, **options)
    return buffer.getvalue()


class StripEncoder:
    """Encodes strips of rows that are added from the top down.

    PNG and raw rows are returned strip by strip, the other formats at the end. `frame` gives size,
    depth and metadata of the whole. Raises FormatCannotHold.
    """

    def __init__(self, frame: Picture, format: str, *, quality: int = 95) -> None:
        check_format_holds(frame, format)
        self._frame = frame
        self._format = format
        self._quality = quality
        self._rows_done = 0
        self._collected: list[Array] = []
        self._png = _png_writer(frame) if format == "png" else None

    def add(self, strip: Picture) -> bytes:
        """Add a strip; returns the next bytes, empty for a format that is written at the end."""
        self._rows_done += strip.height
        samples = _interleaved(strip)
        if self._png is not None:
            return self._png.add(samples)
        if self._format == RAW:
            return samples.tobytes()
        self._collected.append(samples)
        return b""

    def end(self) -> bytes:
        """The rest of the file. Raises ValueError if rows are missing."""
        if self._rows_done != self._frame.height:
            raise ValueError(f"{self._rows_done} rows given for a picture of {self._frame.height}")
        if self._png is not None:
            return self._png.end()
        if self._format == RAW:
            return b""
        samples = np.concatenate(self._collected)
        self._collected = []
        if self._format == "tiff":
            return _encode_tiff(self._frame, samples)
        return _encode_with_pillow(self._frame, samples, self._format, self._quality)


def _png_writer(frame: Picture) -> PngWriter:
    return PngWriter(
        width=frame.width,
        height=frame.height,
        channels=(1 if frame.grey else 3) + (frame.alpha_hw is not None),
        bit_depth=frame.bit_depth,
        icc=frame.icc,
        dpi=frame.dpi,
        exif=frame.exif,
        texts={} if frame.passport is None else {KEYWORD: frame.passport},
    )


def check_format_holds(frame: Picture, format: str) -> None:
    """Raise FormatCannotHold if the format does not support the picture's size or alpha."""
    if format not in LONGEST_SIDE:
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
            raise FormatCannotHold(
                "jpeg holds no transparency, this picture has some; choose png, webp, tiff or avif"
            )


def _row_strips(picture: Picture) -> Iterator[Picture]:
    for top in range(0, picture.height, STRIP_ROWS):
        rows = slice(top, top + STRIP_ROWS)
        alpha_hw = None if picture.alpha_hw is None else picture.alpha_hw[rows]
        yield replace(picture, rgb_hwc=picture.rgb_hwc[rows], alpha_hw=alpha_hw)


def _interleaved(strip: Picture) -> Array:
    """Interleaved channels as the file stores them: grey or RGB, then alpha."""
    colour = strip.rgb_hwc[..., :1] if strip.grey else strip.rgb_hwc
    if strip.alpha_hw is None:
        return colour
    return np.concatenate((colour, strip.alpha_hw[..., None]), axis=2)


def _encode_tiff(frame: Picture, samples: Array) -> bytes:
    """Lossless TIFF of 8 or 16 bits, without EXIF."""
    from pyvips import GValue
    from pyvips import Image as VipsImage

    if samples.shape[2] == 2 and samples.dtype == np.uint16:
        samples = _grey_alpha_as_rgba(samples)  # many readers lack 16-bit grey + alpha
    kinds = {(True, 8): "b-w", (True, 16): "grey16", (False, 8): "srgb", (False, 16): "rgb16"}
    kind = kinds[samples.shape[2] < 3, frame.bit_depth]
    image = VipsImage.new_from_array(np.ascontiguousarray(samples)).copy(interpretation=kind)
    if frame.icc:
        image.set_type(GValue.blob_type, "icc-profile-data", frame.icc)  # type: ignore[arg-type]  # is bytes
    if frame.passport is not None:
        image.set_type(GValue.blob_type, "xmp-data", xmp_packet(frame.passport))  # type: ignore[arg-type]  # is bytes
    per_millimetre = [value * 0.001 / METRES_PER_INCH for value in frame.dpi or (72.0, 72.0)]
    return image.tiffsave_buffer(
        compression="deflate",
        predictor="horizontal",
        resunit="inch",
        xres=per_millimetre[0],
        yres=per_millimetre[1],
    )


def _encode_with_pillow(frame: Picture, samples: Array, format: str, quality: int) -> bytes:
    """JPEG, WebP and AVIF at 8 bits; 16 bits are rounded to 8."""
    if samples.dtype == np.uint16:
        samples = as_8_bits(samples)
    if format == "jpeg" and frame.alpha_hw is not None:
        samples = samples[..., :-1]
    if samples.shape[2] == 2:
        samples = _grey_alpha_as_rgba(samples)
    image = pillow().fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    buffer = io.BytesIO()
    image.save(buffer, format.upper(), **_pillow_options(frame, format, quality))
    return buffer.getvalue()


def _pillow_options(frame: Picture, format: str, quality: int) -> dict[str, Any]:
    options: dict[str, Any] = {"quality": quality}
    if frame.icc:
        options["icc_profile"] = frame.icc
    if frame.exif:
        options["exif"] = b"Exif\0\0" + frame.exif
    if frame.passport is not None:
        options["xmp"] = xmp_packet(frame.passport)
    if format == "jpeg" and frame.dpi and max(frame.dpi) <= MAX_JPEG_DPI:
        options["dpi"] = tuple(round(value) for value in frame.dpi)
    if format == "webp":
        options["method"] = WEBP_METHOD
    if format == "avif":
        options["speed"] = AVIF_SPEED
    return options


def _grey_alpha_as_rgba(samples: Array) -> Array:
    return np.concatenate((np.repeat(samples[..., :1], 3, axis=2), samples[..., 1:]), axis=2)
