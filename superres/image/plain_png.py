"""PNG files that a dataset can store unchanged: 8-bit RGB without metadata."""

import struct

from superres.image.png import SIGNATURE

RGB, BITS = 2, 8
HARMLESS = frozenset({b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tIME", b"sRGB"})


def plain_rgb_png(data: bytes) -> bytes | None:
    """The file up to its last chunk, or None unless it is a PNG of 8-bit RGB without metadata.

    None for a palette, transparency, a colour profile, an orientation or text. The pixels are not
    checked: `data` must have been decoded before.
    """
    if not data.startswith(SIGNATURE) or data[24:26] != bytes((BITS, RGB)):
        return None
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind not in HARMLESS:
            return None
        if kind == b"IEND":
            return data[:position] if position <= len(data) else None
    return None
