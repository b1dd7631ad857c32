"""PNG files that a dataset can store unchanged: 8-bit RGB without metadata."""

from superres.image.png_chunks import SIGNATURE, chunks

RGB, BITS = 2, 8
HARMLESS = frozenset({b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tIME", b"sRGB"})


def plain_rgb_png(data: bytes) -> bytes | None:
    """The file up to its last chunk, or None unless it is a PNG of 8-bit RGB without metadata.

    None for a palette, transparency, a colour profile, an orientation or text. The pixels are not
    checked: `data` must have been decoded before.
    """
    if not data.startswith(SIGNATURE) or data[24:26] != bytes((BITS, RGB)):
        return None
    for kind, _, end in chunks(data):
        if kind not in HARMLESS:
            return None
        if kind == b"IEND":
            with_crc = end + 4
            return data[:with_crc] if with_crc <= len(data) else None
    return None
