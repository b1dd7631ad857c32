"""A PNG encoder that works in strips of rows: constant memory, and many times Pillow's speed.

One fixed filter (Average) and the fastest deflate level cost about a tenth in size and save nine
tenths of the time. The format is W3C's Portable Network Graphics, third edition.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from superres.image.png_chunks import SIGNATURE, chunk

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels: grey, grey + alpha, RGB, RGB + alpha
AVERAGE_FILTER = 3
METRES_PER_INCH = 0.0254
FILTER_ROWS = 64


class Deflater(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class PngWriter:
    """Writes a PNG file incrementally as strips of rows are added from the top down.

    `channels` is 1 to 4 (grey, grey + alpha, RGB, RGB + alpha), `bit_depth` 8 (uint8) or 16
    (uint16); `texts` are text chunks by keyword.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        channels: int,
        bit_depth: int,
        icc: bytes | None = None,
        dpi: tuple[float, float] | None = None,
        exif: bytes | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self._bytes_per_pixel = channels * bit_depth // 8
        self._above = np.zeros(width * self._bytes_per_pixel, np.uint8)
        self._deflater = fastest_deflater()
        header = struct.pack(">IIBBBBB", width, height, bit_depth, COLOUR_TYPES[channels], 0, 0, 0)
        chunks = [SIGNATURE, chunk(b"IHDR", header)]
        if icc:
            chunks.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
        if dpi:
            per_metre = [round(value / METRES_PER_INCH) for value in dpi]
            chunks.append(chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
        if exif:
            chunks.append(chunk(b"eXIf", exif))
        for keyword, text in (texts or {}).items():
            chunks.append(chunk(b"iTXt", keyword.encode() + b"\0\0\0\0\0" + text.encode()))
        self._header = b"".join(chunks)

    def add(self, strip_hwc: NDArray[Any]) -> bytes:
        """Add rows (rows, width, channels); returns the bytes that are complete now."""
        rows = as_bytes(strip_hwc)
        pieces = [self._take_header()]
        # A strip of tiles may be much larger than the CPU cache.
        for top in range(0, len(rows), FILTER_ROWS):
            part = rows[top : top + FILTER_ROWS]
            filtered = average_filtered(part, self._above, self._bytes_per_pixel)
            self._above = part[-1].copy()  # a view would keep the whole strip in memory
            packed = self._deflater.compress(filtered)
            if packed:
                pieces.append(chunk(b"IDAT", packed))
        return b"".join(pieces)

    def end(self) -> bytes:
        """The remaining bytes, once all rows are added."""
        pixels = chunk(b"IDAT", self._deflater.flush())
        return self._take_header() + pixels + chunk(b"IEND", b"")

    def _take_header(self) -> bytes:
        """The bytes before the first row; empty from the second call on."""
        header, self._header = self._header, b""
        return header


def fastest_deflater() -> Deflater:
    """isal's level 1 if installed, else zlib's."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(1)
    return isal_zlib.compressobj(1)


def as_bytes(strip_hwc: NDArray[Any]) -> NDArray[np.uint8]:
    """Rows of big-endian samples: (rows, width * bytes per pixel)."""
    if strip_hwc.dtype == np.uint16:
        strip_hwc = strip_hwc.astype(">u2")
    return np.ascontiguousarray(strip_hwc).view(np.uint8).reshape(len(strip_hwc), -1)


def average_filtered(
    rows: NDArray[np.uint8], above: NDArray[np.uint8], bytes_per_pixel: int
) -> bytes:
    """The filter type, then each row minus the mean of its left and upper neighbours."""
    upper = np.concatenate((above[None], rows[:-1]))
    left = np.zeros_like(rows)
    left[:, bytes_per_pixel:] = rows[:, :-bytes_per_pixel]
    out = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    out[:, 0] = AVERAGE_FILTER
    mean = (left & upper) + ((left ^ upper) >> 1)  # floor((a + b) / 2) without leaving 8 bits
    np.subtract(rows, mean, out=out[:, 1:])
    return out.tobytes()
