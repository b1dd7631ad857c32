"""The chunks of a PNG file (W3C's Portable Network Graphics, third edition, section 5)."""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk: length, type, body and CRC."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the body of each chunk in a file; CRCs are not checked.

    The last body of a truncated file ends beyond the data.
    """
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start, position = position + 8, position + 12 + length
        yield kind, start, start + length
