"""Streaming output: strips of enlarged rows go into the file without holding the whole picture."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.image.encode import RAW, check_format_holds, encode_strips, interleaved, png_texts
from superres.image.picture import Picture, as_grey
from superres.image.png import PngWriter
from superres.image.resize import imresize

Array = NDArray[Any]

CONTEXT_ROWS = 4  # reach of the cubic kernel beyond a strip, plus one


def enlarged_frame(picture: Picture, scale: int) -> Picture:
    """Size and metadata of the enlarged picture; its pixels are a zero-stride placeholder."""
    height, width = picture.height * scale, picture.width * scale
    dtype = picture.rgb_hwc.dtype
    opaque = np.array(np.iinfo(dtype).max, dtype)
    return replace(
        picture,
        rgb_hwc=np.broadcast_to(np.zeros((), dtype), (height, width, 3)),
        alpha_hw=None if picture.alpha_hw is None else np.broadcast_to(opaque, (height, width)),
        dpi=None if picture.dpi is None else (picture.dpi[0] * scale, picture.dpi[1] * scale),
    )


def enlarged_strip(picture: Picture, rgb_hwc: Array, top: int, scale: int) -> Picture:
    """The enlarged rows from row `top` of `picture`, as `upscaler.enlarged` returns them."""
    rows = slice(top, top + len(rgb_hwc) // scale)
    alpha_hw = picture.alpha_hw
    return replace(
        picture,
        rgb_hwc=as_grey(rgb_hwc) if picture.grey else rgb_hwc,
        alpha_hw=None if alpha_hw is None else resampled_rows(alpha_hw, rows, scale),
    )


def resampled_rows(picture_hwc: Array, rows: slice, scale: int) -> Array:
    """The part of `imresize(picture_hwc, scale=scale)` that belongs to these input rows."""
    if scale == 1:
        return picture_hwc[rows]
    first = max(0, rows.start - CONTEXT_ROWS)
    last = min(len(picture_hwc), rows.stop + CONTEXT_ROWS)
    enlarged_hwc = imresize(picture_hwc[first:last], scale=scale)
    return enlarged_hwc[(rows.start - first) * scale : (rows.stop - first) * scale]


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
        self._collected: list[Picture] = []
        self._raw_rows = 0
        self._png: PngWriter | None = None
        if format == "png":
            self._png = PngWriter(
                height=frame.height,
                width=frame.width,
                channels=(1 if frame.grey else 3) + (frame.alpha_hw is not None),
                bit_depth=frame.bit_depth,
                icc=frame.icc,
                dpi=frame.dpi,
                exif=frame.exif,
                texts=png_texts(frame),
            )
            self._header = self._png.begin()
        else:
            self._header = b""

    def add(self, strip: Picture) -> bytes:
        """Add a strip; returns the next bytes, empty for a format that is written at the end."""
        if self._format == RAW:
            self._raw_rows += strip.height
            return interleaved(strip).tobytes()
        if self._png is None:
            self._collected.append(strip)
            return b""
        header, self._header = self._header, b""
        return header + self._png.add(interleaved(strip))

    def end(self) -> bytes:
        """The rest of the file. Raises ValueError if rows are missing."""
        if self._png is not None:
            return self._header + self._png.end()
        strips, self._collected = self._collected, []
        rows = self._raw_rows + sum(strip.height for strip in strips)
        if rows != self._frame.height:
            raise ValueError(f"{rows} rows given for a picture of {self._frame.height}")
        if self._format == RAW:
            return b""
        return b"".join(encode_strips(self._frame, strips, self._format, quality=self._quality))
