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
    Fingerprint,
    Keypoints,
    fingerprint,
    mirror_image,
)

FINGERPRINTS_NAME = "fingerprints.npz"
NO_DESCRIPTORS = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
NOTHING = Fingerprint(phash=0, keypoints=Keypoints.join([]), descriptors=NO_DESCRIPTORS)

Pixels = npt.NDArray[np.uint8]


class PictureFingerprint(NamedTuple):
    """A picture's fingerprint, and its mirror image's, which is NOTHING for one in training."""

    upright: Fingerprint
    mirrored: Fingerprint


def fingerprint_picture(rgb_hwc: Pixels, split: str) -> PictureFingerprint:
    """The looks of a picture (H, W, 3) of a split."""
    upright = fingerprint(rgb_hwc)
    if split == "train":
        return PictureFingerprint(upright, NOTHING)
    return PictureFingerprint(upright, fingerprint(mirror_image(rgb_hwc)))


def write_fingerprints(folder: Path, looks: Sequence[PictureFingerprint]) -> None:
    """Store the looks of pictures in `folder`, to be read back by `read_fingerprints`."""
    fingerprints = [one for look in looks for one in look]
    keypoints = Keypoints.join([one.keypoints for one in fingerprints])
    arrays = {
        "phash": np.array([one.phash for one in fingerprints], np.uint64),
        "counts": np.array([len(one.descriptors) for one in fingerprints], np.int64),
        "points": keypoints.points,
        "arms": keypoints.arms,
        "descriptors": np.concatenate([NO_DESCRIPTORS, *(one.descriptors for one in fingerprints)]),
    }
    np.savez(folder / FINGERPRINTS_NAME, allow_pickle=False, **arrays)


def read_fingerprints(folder: Path) -> list[PictureFingerprint]:
    """The looks of a shard's pictures, in order."""
    with np.load(folder / FINGERPRINTS_NAME) as stored:
        hashes, counts = stored["phash"], stored["counts"]
        ends = np.cumsum(counts)[:-1]
        points, arms, descriptors = (
            np.split(stored[name], ends) for name in ("points", "arms", "descriptors")
        )
    fingerprints = [
        Fingerprint(phash=int(phash), keypoints=Keypoints(*places), descriptors=looks)
        for phash, *places, looks in zip(hashes, points, arms, descriptors, strict=True)
    ]
    return [
        PictureFingerprint(*pair)
        for pair in zip(fingerprints[::2], fingerprints[1::2], strict=True)
    ]
