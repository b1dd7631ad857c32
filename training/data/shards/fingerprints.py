"""The fingerprints of a shard's pictures, on disk.

Hold-out pictures (validation, benchmarks) have that of their mirror image too: training flips its
crops, so a mirrored copy leaks as well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from superres.analysis.fingerprint import (
    DESCRIPTOR_BYTES,
    Fingerprint,
    Keypoints,
    fingerprint,
    mirror_image,
)
from superres.common.errors import SharplineError

FINGERPRINTS_NAME = "fingerprints.npz"
NO_DESCRIPTORS = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
EMPTY = Fingerprint(phash=0, keypoints=Keypoints.join([]), descriptors=NO_DESCRIPTORS)

Pixels = npt.NDArray[np.uint8]


class PictureFingerprint(NamedTuple):
    """The fingerprints of a picture and of its mirror image, which is EMPTY for training."""

    upright: Fingerprint
    mirrored: Fingerprint


def fingerprint_picture(rgb_hwc: Pixels, split: str) -> PictureFingerprint:
    """The fingerprints of a picture (H, W, 3) of a split."""
    upright = fingerprint(rgb_hwc)
    if split == "train":
        return PictureFingerprint(upright, EMPTY)
    return PictureFingerprint(upright, fingerprint(mirror_image(rgb_hwc)))


def write_fingerprints(folder: Path, pictures: Sequence[PictureFingerprint]) -> None:
    """Store the fingerprints of pictures in `folder`."""
    fingerprints = [entry for picture in pictures for entry in picture]
    keypoints = Keypoints.join([entry.keypoints for entry in fingerprints])
    arrays = {
        "phash": np.array([entry.phash for entry in fingerprints], np.uint64),
        "counts": np.array([len(entry.descriptors) for entry in fingerprints], np.int64),
        "points": keypoints.points,
        "arms": keypoints.vectors,
        "descriptors": np.concatenate(
            [NO_DESCRIPTORS, *(entry.descriptors for entry in fingerprints)]
        ),
    }
    np.savez(folder / FINGERPRINTS_NAME, allow_pickle=False, **arrays)


def read_fingerprints(folder: Path) -> list[PictureFingerprint]:
    """The fingerprints of a shard's pictures, in order; raises SharplineError if unreadable."""
    try:
        # Opened here: np.load does not close a file that is no archive.
        with (folder / FINGERPRINTS_NAME).open("rb") as file, np.load(file) as stored:
            hashes, counts = stored["phash"], stored["counts"]
            ends = np.cumsum(counts)[:-1]
            points, vectors, descriptors = (
                np.split(stored[name], ends) for name in ("points", "arms", "descriptors")
            )
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise SharplineError(f"{folder} is damaged; delete it and build again") from error
    fingerprints = [
        Fingerprint(phash=int(phash), keypoints=Keypoints(*keypoints), descriptors=rows)
        for phash, *keypoints, rows in zip(hashes, points, vectors, descriptors, strict=True)
    ]
    return [
        PictureFingerprint(*pair)
        for pair in zip(fingerprints[::2], fingerprints[1::2], strict=True)
    ]
