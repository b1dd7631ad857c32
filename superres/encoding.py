"""Pixels to files: PNG stripe by stripe, JPEG and WebP once the whole picture is there."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from superres.decoding import pillow
from superres.picture import Array, FormatCannotHold, Picture
from superres.png import encode_png

OUTPUT_FORMATS = ("png", "jpeg", "webp")
LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
STRIPE_ROWS = 256


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
            raise FormatCannotHold(
                "jpeg holds no transparency, this picture has some; choose png or webp"
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
    image = pillow().fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
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
