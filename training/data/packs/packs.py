"""Training pictures as raw uint8 in one memory-mapped file.

A pack holds, picture by picture, the HR pixels and then those of each LR, all (H, W, 3); its index
holds their offsets.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from superres.common.errors import SharplineError
from superres.common.files import sha256_file, translate_write_errors, write_json
from training.data.shards.shards import RAW_NAME, PictureLocation
from training.data.workers import WorkerTask, run_tasks

PACK_NAME, INDEX_NAME = "packs/train.bin", "packs/train.json"
CHUNK_BYTES = 2**20

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPair:
    """The location of one pair; sizes are the LR picture's, offsets are bytes into the pack.

    Several draws of one picture share its HR pixels. sha256 are those of the pixels.
    """

    name: str
    height: int
    width: int
    hr_offset: int
    lr_offset: int
    hr_sha256: str
    lr_sha256: str


class _Segment(NamedTuple):
    """A byte range of a shard's file and its offset in the pack."""

    offset: int
    size: int
    sha256: str
    pack_offset: int


def write_pack(
    dataset: Path, training: Sequence[PictureLocation], scale: int, *, workers: int
) -> str:
    """Copy the pixels of `training` out of their shards; return the sha256 of the pack's index.

    Raises SharplineError where a shard's pixels are not those that it was built with.
    """
    path = dataset / PACK_NAME
    path.parent.mkdir(parents=True)
    pairs: list[PackedPair] = []
    tasks: list[WorkerTask] = []
    end = 0
    for folder, entries in groupby(training, key=lambda entry: entry.folder):
        segments = []
        for entry in entries:
            added = list(_segments(entry, scale, end))
            segments += added
            pairs += _pairs(entry, added, scale)
            end = added[-1].pack_offset + added[-1].size
        tasks.append(WorkerTask(f"packing {folder.name}", (folder / RAW_NAME, segments, path)))
    with path.open("wb") as file:
        file.truncate(end)
    for _ in run_tasks(_copy, tasks, workers=workers):
        pass
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    index = {"scale": scale, "bytes": end, "pairs": [asdict(pair) for pair in pairs]}
    write_json(dataset / INDEX_NAME, index)
    return sha256_file(dataset / INDEX_NAME)


def _segments(entry: PictureLocation, scale: int, pack_offset: int) -> Iterator[_Segment]:
    picture, offset = entry.picture, entry.picture.offset
    hr_size = picture.height * picture.width * 3
    lr_sizes = [hr_size // scale**2] * len(picture.lr_sha256)
    for size, sha256 in zip(
        (hr_size, *lr_sizes), (picture.hr_sha256, *picture.lr_sha256), strict=True
    ):
        yield _Segment(offset, size, sha256, pack_offset)
        offset, pack_offset = offset + size, pack_offset + size


def _pairs(
    entry: PictureLocation, segments: Sequence[_Segment], scale: int
) -> Iterator[PackedPair]:
    hr, *lrs = segments
    for lr in lrs:
        yield PackedPair(
            name=entry.picture.name,
            height=entry.picture.height // scale,
            width=entry.picture.width // scale,
            hr_offset=hr.pack_offset,
            lr_offset=lr.pack_offset,
            hr_sha256=hr.sha256,
            lr_sha256=lr.sha256,
        )


def _copy(source: Path, segments: Sequence[_Segment], pack: Path) -> None:
    with translate_write_errors(pack), source.open("rb") as read_from, pack.open("rb+") as write_to:
        for segment in segments:
            if _copy_segment(read_from, segment, write_to) != segment.sha256:
                raise SharplineError(f"{source} is damaged; delete {source.parent} and build again")


def _copy_segment(read_from: BinaryIO, segment: _Segment, write_to: BinaryIO) -> str:
    """Copy in small chunks; return the sha256 of the copied bytes."""
    digest, left = hashlib.sha256(), segment.size
    read_from.seek(segment.offset)
    write_to.seek(segment.pack_offset)
    while left:
        data = read_from.read(min(left, CHUNK_BYTES))
        if not data:
            break
        digest.update(data)
        write_to.write(data)
        left -= len(data)
    return digest.hexdigest()


class Pack:
    """A pack opened for reading; pixels are read on access."""

    def __init__(self, dataset: Path) -> None:
        try:
            index = json.loads((dataset / INDEX_NAME).read_bytes())
            # A plain array view: slicing np.memmap itself costs more than copying a crop.
            self._bytes = np.asarray(np.memmap(dataset / PACK_NAME, dtype=np.uint8, mode="r"))
        except (OSError, ValueError) as error:
            raise SharplineError(
                f"{dataset} has no readable training pack; build the dataset again"
            ) from error
        if self._bytes.size != index["bytes"]:
            raise SharplineError(
                f"{dataset / PACK_NAME} has {self._bytes.size} bytes instead of "
                f"{index['bytes']}; build the dataset again"
            )
        self.scale: int = index["scale"]
        self.pairs = tuple(PackedPair(**entry) for entry in index["pairs"])

    def hr(self, pair: PackedPair) -> Pixels:
        """The HR picture (H * scale, W * scale, 3), not copied."""
        height, width = pair.height * self.scale, pair.width * self.scale
        return self._picture(pair.hr_offset, height, width)

    def lr(self, pair: PackedPair) -> Pixels:
        """The LR picture (H, W, 3), not copied."""
        return self._picture(pair.lr_offset, pair.height, pair.width)

    def _picture(self, offset: int, height: int, width: int) -> Pixels:
        return self._bytes[offset : offset + height * width * 3].reshape(height, width, 3)
