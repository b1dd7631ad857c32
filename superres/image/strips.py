"""An enlarged picture that is never whole: stripes of rows go straight into the file."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.image.encode import RAW, check_format_holds, encode_strips, interleaved, png_texts
from superres.image.picture import Picture, as_grey
from superres.image.png import PngWriter
from superres.image.resize import imresize

Array = NDArray[Any]

CONTEXT_ROWS = 4  # that the cubic kernel may reach beyond a stripe, and one more


def enlarged_frame(picture: Picture, scale: int) -> Picture:
    """Size and metadata of the enlarged picture; its pixels are there in name only."""
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
    """The enlarged rows from `top` (of `picture`) on, as `upscaler.enlarged` makes them."""
    rows = slice(top, top + len(rgb_hwc) // scale)
    alpha_hw = picture.alpha_hw
    return replace(
        picture,
        rgb_hwc=as_grey(rgb_hwc) if picture.grey else rgb_hwc,
        alpha_hw=None if alpha_hw is None else resampled_rows(alpha_hw, rows, scale),
    )


def resampled_rows(picture_hwc: Array, rows: slice, scale: int) -> Array:
    """`imresize(picture_hwc, scale=scale)`, the part that belongs to these rows of the picture."""
    if scale == 1:
        return picture_hwc[rows]
    first = max(0, rows.start - CONTEXT_ROWS)
    last = min(len(picture_hwc), rows.stop + CONTEXT_ROWS)
    enlarged_hwc = imresize(picture_hwc[first:last], scale=scale)
    return enlarged_hwc[(rows.start - first) * scale : (rows.stop - first) * scale]


class StripEncoder:
    """A file from stripes of rows, added as they come from the top down.

    PNG and raw rows come out stripe by stripe, the other formats at the end. `frame` gives size,
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
            self._begun = self._png.begin()
        else:
            self._begun = b""

    def add(self, strip: Picture) -> bytes:
        """What of the file is known now; nothing for a format that is written at the end."""
        if self._format == RAW:
            self._raw_rows += strip.height
            return interleaved(strip).tobytes()
        if self._png is None:
            self._collected.append(strip)
            return b""
        begun, self._begun = self._begun, b""
        return begun + self._png.add(interleaved(strip))

    def end(self) -> bytes:
        """The rest of the file. Raises ValueError where rows are missing."""
        if self._png is not None:
            return self._begun + self._png.end()
        strips, self._collected = self._collected, []
        rows = self._raw_rows + sum(strip.height for strip in strips)
        if rows != self._frame.height:
            raise ValueError(f"{rows} rows given for a picture of {self._frame.height}")
        if self._format == RAW:
            return b""
        return b"".join(encode_strips(self._frame, strips, self._format, quality=self._quality))
