"""The public interface to the codecs: bytes to pixels and back.

Decoded pictures are upright (EXIF orientation applied once), RGB, 8 or 16 bits; alpha is a separate
plane, grey pictures are flagged, an ICC profile is kept, other metadata is dropped.
"""

import re
from pathlib import Path

from superres.common.errors import SharplineError
from superres.common.files import write_bytes
from superres.image.colour import to_srgb
from superres.image.decode import decode, inspect
from superres.image.encode import (
    LONGEST_SIDE,
    OUTPUT_FORMATS,
    RAW,
    StripEncoder,
    check_format_holds,
    encode,
)
from superres.image.picture import (
    DEFAULT_LIMITS,
    BrokenPicture,
    FormatCannotHold,
    Header,
    Limits,
    NotAPicture,
    Picture,
    PictureError,
    TooManyBytes,
    TooManyPixels,
)

__all__ = [
    "FORMAT_SUFFIXES",
    "LONGEST_SIDE",
    "OUTPUT_FORMATS",
    "PICTURE_SUFFIXES",
    "RAW",
    "SUFFIX_FORMATS",
    "BrokenPicture",
    "FormatCannotHold",
    "Header",
    "Limits",
    "NotAPicture",
    "Picture",
    "PictureError",
    "StripEncoder",
    "TooManyBytes",
    "TooManyPixels",
    "check_format_holds",
    "clean_name",
    "decode",
    "encode",
    "inspect",
    "list_pictures",
    "read",
    "to_srgb",
    "write",
]

SUFFIX_FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".avif": "avif",
}
FORMAT_SUFFIXES = {
    "png": ".png",
    "jpeg": ".jpg",
    "webp": ".webp",
    "tiff": ".tif",
    "avif": ".avif",
}
PICTURE_SUFFIXES = (*SUFFIX_FORMATS, ".gif", ".bmp")


def read(path: Path, limits: Limits = DEFAULT_LIMITS) -> Picture:
    """Decode a file; the picture's name is the file's. Raises PictureError naming the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SharplineError(f"cannot read {path}: {error.strerror}") from error
    try:
        return decode(data, name=path.stem, limits=limits)
    except PictureError as error:
        raise type(error)(f"{path}: {error}") from error


def write(path: Path, picture: Picture, *, quality: int = 95) -> None:
    """Encode and write a file atomically; the suffix selects the format."""
    format = SUFFIX_FORMATS.get(path.suffix.lower())
    if format is None:
        raise FormatCannotHold(f"{path}: the suffix must be one of {', '.join(SUFFIX_FORMATS)}")
    write_bytes(path, encode(picture, format, quality=quality))


def list_pictures(folder: Path) -> list[Path]:
    """Files directly in `folder` with a picture's suffix, sorted by name."""
    if not folder.is_dir():
        raise SharplineError(f"{folder} is not a folder")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def clean_name(name: str) -> str:
    """A file name safe for headers and disks: no folders, no control characters, 100 long."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.\- ]", "_", last).strip(". ")[:100] or "picture"
