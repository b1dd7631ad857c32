"""Checks of a JPEG file's markers before decoding (ITU-T T.81, annex B)."""

import re
import struct

from superres.image.picture import BrokenPicture

MAX_SCANS = 100  # real files have about ten
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# Not a stuffed byte, a restart marker or padding, which occur within a scan.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def require_few_scans(data: bytes) -> None:
    """Raise BrokenPicture for more than MAX_SCANS scans.

    A decoder passes over the whole picture for each scan, and a scan takes as little as twenty
    bytes: a megabyte of them would occupy a decoder for many minutes.
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
