"""Damages small pictures at random and decodes them; a process of its own, so that it may crash.

    python tests/hostile/mutations.py FIRST COUNT PROGRESS_FILE

PROGRESS_FILE holds the number that was worked on last. One line is written for each file whose
decoding did anything but give a picture or raise a PictureError. `mutated(NUMBER)` is that file.
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
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def originals():
    """Sound files of every format and kind, with a profile and EXIF where the format has them."""
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
    """The file of this number: always the same one."""
    choose = random.Random(number)
    data = bytearray(choose.choice(files))
    for _ in range(choose.choice((1, 1, 2, 3, 8))):
        MUTATIONS[choose.randrange(len(MUTATIONS))](data, choose)
    sound_sums = data.startswith(b"\x89PNG") and choose.random() < 0.7
    return with_sound_sums(bytes(data)) if sound_sums else bytes(data)


def flip(data, choose):
    if data:
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)


def overwrite(data, choose):
    place, width = choose.randrange(len(data) + 1), choose.choice((1, 2, 4))
    value = choose.choice(EDGES) & (256**width - 1)
    data[place : place + width] = value.to_bytes(width, choose.choice(("big", "little")))


def cut(data, choose):
    del data[choose.randrange(len(data) + 1) :]


def drop(data, choose):
    place = choose.randrange(len(data) + 1)
    del data[place : place + choose.randrange(1, 40)]


def repeat(data, choose):
    place, length = choose.randrange(len(data) + 1), choose.randrange(1, 60)
    data[place:place] = data[place : place + length] * choose.choice((1, 2, 50))


def scribble(data, choose):
    place = choose.randrange(len(data) + 1)
    data[place : place + choose.randrange(1, 20)] = choose.randbytes(choose.randrange(1, 20))


MUTATIONS = (flip, flip, flip, overwrite, overwrite, cut, drop, repeat, scribble)


def with_sound_sums(data):
    """A PNG with its checksums made right again, so that what lies behind them is reached."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + length]
        parts.append(data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join([*parts, data[place:]])


def fault_of(data):
    """What is wrong with the decoder's answer; None where it is a picture or a clear refusal."""
    try:
        picture = decode(data, limits=LIMITS, keep_metadata=True)
        to_srgb(picture)
    except PictureError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    height, width = picture.rgb_hwc.shape[:2]
    right = picture.rgb_hwc.shape == (height, width, 3) and picture.pixels <= LIMITS.max_pixels
    if picture.alpha_hw is not None:
        right = right and picture.alpha_hw.shape == (height, width)
        right = right and picture.alpha_hw.dtype == picture.rgb_hwc.dtype
    return None if right else f"a picture of shape {picture.rgb_hwc.shape}"


def main(first, count, progress_file):
    faulthandler.enable()
    warnings.simplefilter("ignore")
    files, told = originals(), 0
    with Path(progress_file).open("w") as progress:
        for number in range(first, first + count):
            progress.seek(0)
            progress.write(f"{number:12}")
            progress.flush()
            fault = fault_of(mutated(number, files))
            if fault is not None:
                told += 1
                sys.stdout.write(f"{number}: {fault}\n")
    return min(told, 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
