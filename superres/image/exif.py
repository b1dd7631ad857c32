"""The EXIF block of an input: its orientation, and the tags that are kept in the output."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112  # the tag
# Description, make, model, software, date, artist, copyright; the rest of the first directory
# describes how the input's pixels were stored.
KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
EXIF_IFD_DROPPED = (0x927C, 0xA002, 0xA003, 0xA005)  # maker notes, sizes, interoperability IFD
MAX_BYTES = 60_000  # a JPEG segment holds 65,533


def orientation_of(image: "Image.Image") -> int:
    """The EXIF orientation, 1 to 8; 1, upright, if the file states none."""
    try:
        return int(_exif(image).get(ORIENTATION, 1))
    except Exception:  # damaged EXIF block: assume upright
        return 1


def kept_exif(image: "Image.Image") -> bytes | None:
    """The EXIF block for the output, without the tags that describe the stored pixels.

    None if it is missing, damaged or too large for a JPEG segment.
    """
    from PIL import Image

    try:
        source, kept = _exif(image), Image.Exif()
        kept.update({tag: source[tag] for tag in KEPT if tag in source})
        for group, dropped in ((EXIF_IFD, EXIF_IFD_DROPPED), (GPS_IFD, ())):
            inner = {
                tag: value for tag, value in source.get_ifd(group).items() if tag not in dropped
            }
            if inner:
                kept[group] = inner
        block = kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else b""
    except Exception:  # a damaged EXIF block must not fail the picture
        return None
    return block if 0 < len(block) <= MAX_BYTES else None


def _exif(image: "Image.Image") -> "Image.Exif":
    """The EXIF of an image. PngImageFile.getexif would decode the pixels to find chunks after
    them; files with such chunks have been decoded already."""
    from PIL import Image

    return Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
