"""Strips of rows of an enlarged picture, which is streamed without holding the whole of it."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.image.picture import Picture, as_grey
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
