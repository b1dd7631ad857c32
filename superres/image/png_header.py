"""Checks of a PNG file's chunks before decoding."""

import struct
import zlib
from collections.abc import Iterator
from itertools import dropwhile, takewhile

from superres.image.picture import BrokenPicture
from superres.image.png_chunks import chunks

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
WHOLE = ((0, 0, 1, 1),)  # first row, first column, row step, column step
ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"pHYs", b"tRNS")
INFLATE_BYTES = 2**20  # inflated at a time, to bound memory
MAX_CHUNKS = 1_000  # before the pixels; real files have fewer than thirty
GREY, RGB, RGBA = 0, 2, 6  # colour types


def bit_depth(data: bytes) -> int:
    """Bits per sample, from the header."""
    return data[24]


def colour_type(data: bytes) -> int:
    """The PNG colour type, from the header."""
    return data[25]


def require_few_chunks(data: bytes) -> None:
    """Raise BrokenPicture for more than MAX_CHUNKS chunks, which cost decoders minutes."""
    for count, (kind, _, _) in enumerate(chunks(data), start=1):
        if kind in (b"IDAT", b"IEND"):
            return
        if count > MAX_CHUNKS:
            raise BrokenPicture(f"the PNG has over {MAX_CHUNKS} chunks ahead of its pixels")


def require_all_rows(data: bytes) -> None:
    """Raise BrokenPicture if the pixel data ends early: Pillow would pad the rows with black."""
    width, height, bit_depth, colour_type, _, _, interlaced = struct.unpack_from(
        ">IIBBBBB", data, 16
    )
    bits_per_pixel = bit_depth * CHANNELS[colour_type]
    expected = sum(
        len(range(top, height, down))
        * (1 + (len(range(left, width, right)) * bits_per_pixel + 7) // 8)
        for top, left, down, right in (ADAM7 if interlaced else WHOLE)
        if left < width
    )
    inflater, inflated = zlib.decompressobj(), 0
    for body in _pixel_chunks(data):
        pending = body
        while pending and inflated < expected:
            inflated += len(inflater.decompress(pending, INFLATE_BYTES))
            pending = inflater.unconsumed_tail
        if inflated >= expected or inflater.eof:
            break
    if inflated < expected:
        raise BrokenPicture(
            f"the picture is damaged: its pixels end after {inflated:,} of {expected:,} bytes"
        )


def has_metadata_after_pixels(data: bytes) -> bool:
    """Whether metadata chunks follow the pixels, where only Pillow reads them, after decoding."""
    kinds = (kind for kind, _, _ in _chunks_to_end(data))
    return any(kind in METADATA for kind in dropwhile(lambda kind: kind != b"IDAT", kinds))


def _pixel_chunks(data: bytes) -> Iterator[bytes]:
    for kind, start, end in _chunks_to_end(data):
        if kind == b"IDAT":
            yield data[start:end]


def _chunks_to_end(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks before IEND."""
    return takewhile(lambda entry: entry[0] != b"IEND", chunks(data))
