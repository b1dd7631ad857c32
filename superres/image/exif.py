"""The EXIF block of an input: which way is up, and what of it may go on to the answer."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112  # the tag
# Description, make, model, software, date, artist, copyright; the rest of the first directory
# speaks of how the input's pixels were stored.
KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
EXIF_IFD_LEFT = (0x927C, 0xA002, 0xA003, 0xA005)  # maker notes, sizes, a pointer to yet another
MAX_BYTES = 60_000  # a JPEG segment holds 65,533


def orientation_of(image: "Image.Image") -> int:
    """1 to 8 as EXIF counts them; 1, upright, where the file says nothing."""
    try:
        return int(_exif(image).get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def kept_exif(image: "Image.Image") -> bytes | None:
    """The EXIF block to pass on: who, what, when, where and how, nothing of the stored pixels.

    None where there is none, where it is damaged or too large for a JPEG segment.
    """
    from PIL import Image

    try:
        given, kept = _exif(image), Image.Exif()
        kept.update({tag: given[tag] for tag in KEPT if tag in given})
        for group, left in ((EXIF_IFD, EXIF_IFD_LEFT), (GPS_IFD, ())):
            inner = {tag: value for tag, value in given.get_ifd(group).items() if tag not in left}
            if inner:
                kept[group] = inner
        block = kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else b""
    except Exception:  # a damaged EXIF block is not worth a picture
        return None
    return block if 0 < len(block) <= MAX_BYTES else None


def _exif(image: "Image.Image") -> "Image.Exif":
    """Without decoding a PNG, as its own method would in search of what stands behind the pixels:
    where anything does, Pillow has decoded them already."""
    from PIL import Image

    return Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
