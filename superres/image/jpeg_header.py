"""What a JPEG file's markers say, before a decoder is trusted with them (ITU-T T.81, annex B)."""

import re
import struct

from superres.image.picture import BrokenPicture

MAX_SCANS = 100  # real files have about ten
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# Neither a stuffed byte, a restart nor padding: those stand within a scan.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def require_few_scans(data: bytes) -> None:
    """Raise BrokenPicture for absurdly many scans.

    Each of them goes over the whole picture, and twenty bytes are enough for one: a megabyte of
    them would keep a decoder busy for many minutes.
    """
    position, scans = 2, 0
    while marker := MARKER.search(data, position):
        kind = marker[0][1]
        if kind == END_OF_IMAGE or marker.end() + 2 > len(data):
            return
        scans += kind == START_OF_SCAN
        if scans > MAX_SCANS:
            raise BrokenPicture(f"the JPEG has over {MAX_SCANS} scans")
        (length,) = struct.unpack_from(">H", data, marker.end())
        position = marker.end() + length
