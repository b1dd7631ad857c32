"""Damages small pictures at random and decodes them; in its own process, because it may crash.

    python tests/hostile/mutations.py FIRST COUNT PROGRESS_FILE

PROGRESS_FILE holds the number of the current file. One line is written for each file whose decoding
neither returned a picture nor raised a PictureError. `mutated(NUMBER)` is that file.
"""

import faulthandler
import io
import random
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyvips
from PIL import Image, ImageCms

from superres.image.codecs import Limits, PictureError, decode, to_srgb

LIMITS = Limits(max_pixels=100_000, max_bytes=1_000_000, max_side=4_000)
SIDES = (11, 14)
BOUNDARY_VALUES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)


def originals():
    """Valid files of every format and kind, with a profile and EXIF if the format supports them."""
    rng = np.random.default_rng(3)
    rgba = Image.fromarray(rng.integers(0, 256, (*SIDES, 4), np.uint8))
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif.update({0x010F: "maker", 0x0112: 6})
    exif[0x8769] = {0x9003: "2026:01:02 03:04:05"}
    with_all = {"icc_profile": icc, "exif": exif.tobytes()}
    kinds = [
        *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        *(("TIFF", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "F")),
        *(("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "jpeg", "packbits")),
        *((name, "RGB", with_all) for name in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")),
        *((name, "RGBA", {}) for name in ("WEBP", "AVIF", "BMP")),
        *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")),
        *(("GIF", "P", extra) for extra in ({}, {"save_all": True, "append_images": [rgba]})),
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGB", {"lossless": True}),
    ]
    files = [saved(rgba, *kind) for kind in kinds]
    deep = pyvips.Image.new_from_array(rng.integers(0, 65_536, (*SIDES, 3), np.uint16))
    files += [deep.pngsave_buffer(), deep.tiffsave_buffer(compression="deflate")]
    return [*files, deep.cast("uchar").pngsave_buffer(interlace=True)]


def saved(rgba, format, mode, options):
    buffer = io.BytesIO()
    image = rgba.convert("L").convert("I;16") if mode == "I;16" else rgba.convert(mode)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def mutated(number, files):
    """The damaged file of this number; deterministic."""
    rng = random.Random(number)
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        MUTATIONS[rng.randrange(len(MUTATIONS))](data, rng)
    fix_checksums = data.startswith(b"\x89PNG") and rng.random() < 0.7
    return with_valid_checksums(bytes(data)) if fix_checksums else bytes(data)


def flip(data, rng):
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data, rng):
    offset, width = rng.randrange(len(data) + 1), rng.choice((1, 2, 4))
    value = rng.choice(BOUNDARY_VALUES) & (256**width - 1)
    data[offset : offset + width] = value.to_bytes(width, rng.choice(("big", "little")))


def cut(data, rng):
    del data[rng.randrange(len(data) + 1) :]


def drop(data, rng):
    offset = rng.randrange(len(data) + 1)
    del data[offset : offset + rng.randrange(1, 40)]


def repeat(data, rng):
    offset, length = rng.randrange(len(data) + 1), rng.randrange(1, 60)
    data[offset:offset] = data[offset : offset + length] * rng.choice((1, 2, 50))


def overwrite_random(data, rng):
    offset = rng.randrange(len(data) + 1)
    data[offset : offset + rng.randrange(1, 20)] = rng.randbytes(rng.randrange(1, 20))


MUTATIONS = (flip, flip, flip, overwrite, overwrite, cut, drop, repeat, overwrite_random)


def with_valid_checksums(data):
    """A PNG with corrected checksums, so that the decoder gets past them."""
    parts, offset = [data[:8]], 8
    while offset + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        body = data[offset + 4 : offset + 8 + length]
        parts.append(data[offset : offset + 4] + body + struct.pack(">I", zlib.crc32(body)))
        offset += 12 + length
    return b"".join([*parts, data[offset:]])


def fault_of(data):
    """The fault of the decoder; None if it returns a valid picture or raises PictureError."""
    try:
        picture = decode(data, limits=LIMITS, keep_metadata=True)
        to_srgb(picture)
    except PictureError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    height, width = picture.rgb_hwc.shape[:2]
    valid = picture.rgb_hwc.shape == (height, width, 3) and picture.pixels <= LIMITS.max_pixels
    if picture.alpha_hw is not None:
        valid = valid and picture.alpha_hw.shape == (height, width)
        valid = valid and picture.alpha_hw.dtype == picture.rgb_hwc.dtype
    return None if valid else f"a picture of shape {picture.rgb_hwc.shape}"


def main(first, count, progress_file):
    faulthandler.enable()
    warnings.simplefilter("ignore")
    files, fault_count = originals(), 0
    with Path(progress_file).open("w") as progress:
        for number in range(first, first + count):
            progress.seek(0)
            progress.write(f"{number:12}")
            progress.flush()
            fault = fault_of(mutated(number, files))
            if fault is not None:
                fault_count += 1
                sys.stdout.write(f"{number}: {fault}\n")
    return min(fault_count, 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
