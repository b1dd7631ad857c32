"""What the pictures of a shard are recognised by, on disk: their fingerprints.

A picture that others are looked up among (a benchmark's, one held out) has that of its mirror image
too: training mirrors its crops, so a mirrored copy of it would leak all the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from superres.analysis.fingerprint import (
    DESCRIPTOR_BYTES,
    Details,
    Fingerprint,
    fingerprint,
    mirror_image,
)

PRINTS_NAME = "prints.npz"
NO_DESCRIPTORS = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
NOTHING = Fingerprint(phash=0, details=Details.join([]), descriptors=NO_DESCRIPTORS)

Pixels = npt.NDArray[np.uint8]


class Looks(NamedTuple):
    """A picture's fingerprint, and its mirror image's, which is NOTHING for one in training."""

    upright: Fingerprint
    mirrored: Fingerprint


def look_at(rgb_hwc: Pixels, split: str) -> Looks:
    """The looks of a picture (H, W, 3) of a split."""
    upright = fingerprint(rgb_hwc)
    if split == "train":
        return Looks(upright, NOTHING)
    return Looks(upright, fingerprint(mirror_image(rgb_hwc)))


def write_prints(folder: Path, looks: Sequence[Looks]) -> None:
    """Store the looks of pictures in `folder`, to be read back by `read_prints`."""
    prints = [print_ for look in looks for print_ in look]
    details = Details.join([print_.details for print_ in prints])
    arrays = {
        "phash": np.array([print_.phash for print_ in prints], np.uint64),
        "counts": np.array([len(print_.descriptors) for print_ in prints], np.int64),
        "points": details.points,
        "arms": details.arms,
        "descriptors": np.concatenate([NO_DESCRIPTORS, *(one.descriptors for one in prints)]),
    }
    np.savez(folder / PRINTS_NAME, allow_pickle=False, **arrays)


def read_prints(folder: Path) -> list[Looks]:
    """The looks of a shard's pictures, in order."""
    with np.load(folder / PRINTS_NAME) as stored:
        hashes, counts = stored["phash"], stored["counts"]
        ends = np.cumsum(counts)[:-1]
        points, arms, descriptors = (
            np.split(stored[name], ends) for name in ("points", "arms", "descriptors")
        )
    prints = [
        Fingerprint(phash=int(phash), details=Details(*places), descriptors=looks)
        for phash, *places, looks in zip(hashes, points, arms, descriptors, strict=True)
    ]
    return [Looks(*pair) for pair in zip(prints[::2], prints[1::2], strict=True)]
