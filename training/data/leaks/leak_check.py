"""Pictures that repeat another one: exactly, nearly, or a part of it.

Those that must stay unseen (held-out pictures, benchmarks) are put into an index once, as they are
and mirrored; every other picture is then looked up in it, so the cost grows with the number of
pictures and not its square.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from superres.analysis.fingerprint import are_copies, mirror_image, thumbnail
from superres.dataset.manifest import LeftOut, NearDuplicate
from superres.image.codecs import read
from training.data.leaks.holdout_index import HoldoutIndex, HoldoutMatch
from training.data.shards.fingerprints import PictureFingerprint, read_fingerprints
from training.data.shards.loading import Pixels, rgb8
from training.data.shards.plan import BENCHMARK
from training.data.shards.shards import PictureLocation
from training.data.workers import WorkerTask, run_tasks

NEAR_DUPLICATE_BITS = 4  # of 64: unrelated photographs differ in about 32
MAX_COMPARED = 4  # of the pictures that one looks like: many alike would be compared in pairs
SMALL_KEPT = 1024  # thumbnails, of 27 KB each


class HoldoutPicture(NamedTuple):
    """A picture that no other may repeat: where its fingerprint and where its pixels lie."""

    folder: Path
    fingerprint_row: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Pictures that must go, and pairs of pictures in one split that look alike and may stay."""

    left_out: tuple[LeftOut, ...]
    near_duplicates: tuple[NearDuplicate, ...]


def find_duplicates(locations: Sequence[PictureLocation], *, workers: int) -> Duplicates:
    """Which of the pictures repeat another one, of two the one that is needed less.

    A benchmark's picture outranks one held out for validation, and that one in training. Within a
    split copies go, and pictures that are merely alike are told of.
    """
    distributed = {BENCHMARK: 0, "validation": 1, "train": 2}
    kept, left_out = _without_copies(
        sorted(locations, key=lambda entry: (distributed[entry.picture.split], entry.picture.name))
    )
    holdout = [entry for entry in kept if entry.picture.split == BENCHMARK]
    near_duplicates: list[NearDuplicate] = []
    for split in ("validation", "train"):
        entries = [entry for entry in kept if entry.picture.split == split]
        if holdout:
            twins = _look_up_all(entries, holdout, workers=workers)
            left_out += [twins[name] for name in sorted(twins)]
            entries = [entry for entry in entries if entry.picture.name not in twins]
        within = _compare_within(entries)
        left_out += within.left_out
        near_duplicates += within.near_duplicates
        gone = {entry.name for entry in within.left_out}
        holdout += [entry for entry in entries if entry.picture.name not in gone]
    return Duplicates(left_out=tuple(left_out), near_duplicates=tuple(near_duplicates))


def _without_copies(
    ranked: Sequence[PictureLocation],
) -> tuple[list[PictureLocation], list[LeftOut]]:
    """The pictures less those whose pixels an earlier one has too."""
    first: dict[str, PictureLocation] = {}
    kept, left_out = [], []
    for entry in ranked:
        duplicate_of = first.setdefault(entry.picture.hr_sha256, entry)
        if duplicate_of is entry or entry.picture.split == BENCHMARK:
            kept.append(entry)
        else:
            left_out.append(_left_out(entry.picture.name, "the same picture as", duplicate_of))
    return kept, left_out


def _left_out(name: str, how: str, duplicate_of: PictureLocation) -> LeftOut:
    picture = duplicate_of.picture
    return LeftOut(
        name=name, reason=f"{how} {picture.name} ({picture.split})", duplicate_of=picture.name
    )


def _look_up_all(
    entries: Sequence[PictureLocation], holdout: Sequence[PictureLocation], *, workers: int
) -> dict[str, LeftOut]:
    """What each of `entries` repeats of `holdout`, by name, looked up shard by shard."""
    where = tuple(
        HoldoutPicture(entry.folder, entry.fingerprint_row, entry.path) for entry in holdout
    )
    by_shard = groupby(sorted(entries, key=lambda entry: entry.folder), lambda entry: entry.folder)
    tasks = (
        WorkerTask(
            f"comparing {folder.name}",
            (
                folder,
                [(entry.picture.name, entry.fingerprint_row, entry.path) for entry in shard],
                where,
            ),
        )
        for folder, shard in by_shard
    )
    found: dict[str, LeftOut] = {}
    for names in run_tasks(_look_up, tasks, workers=workers):
        for name, (position, how) in names.items():
            found[name] = _left_out(name, how, holdout[position])
    return found


def _look_up(
    folder: Path, places: Sequence[tuple[str, int, Path]], holdout: tuple[HoldoutPicture, ...]
) -> dict[str, HoldoutMatch]:
    fingerprints, index, found = read_fingerprints(folder), _index(holdout), {}
    for name, fingerprint_row, path in places:
        duplicate_of = index.find(
            fingerprints[fingerprint_row].upright, lambda path=path: rgb8(read(path))
        )
        if duplicate_of is not None:
            mirrored, position = divmod(duplicate_of.position, len(holdout))
            found[name] = HoldoutMatch(
                position, f"mirrored, {duplicate_of.how}" if mirrored else duplicate_of.how
            )
    return found


@lru_cache(maxsize=1)
def _index(holdout: tuple[HoldoutPicture, ...]) -> HoldoutIndex:
    """Built once in each worker process: the pictures as they are, then the same mirrored."""
    stored: dict[Path, list[PictureFingerprint]] = {}
    for entry in holdout:
        if entry.folder not in stored:
            stored[entry.folder] = read_fingerprints(entry.folder)
    fingerprints = [stored[entry.folder][entry.fingerprint_row] for entry in holdout]

    def opened(position: int) -> Pixels:
        mirrored, fingerprint_row = divmod(position, len(holdout))
        rgb_hwc = rgb8(read(holdout[fingerprint_row].path))
        return mirror_image(rgb_hwc) if mirrored else rgb_hwc

    return HoldoutIndex(
        [*(look.upright for look in fingerprints), *(look.mirrored for look in fingerprints)],
        opened,
    )


def _compare_within(entries: Sequence[PictureLocation]) -> Duplicates:
    """Of the pictures of one split, copies of a larger or earlier one, and those merely alike."""
    ranked = sorted(entries, key=lambda entry: (-_area(entry), entry.picture.name))
    hashes = np.array([int(entry.picture.rows[0].phash, 16) for entry in ranked], np.uint64)
    small = lru_cache(SMALL_KEPT)(lambda path: thumbnail(rgb8(read(path))))
    kept = np.ones(len(ranked), bool)
    left_out: list[LeftOut] = []
    near_duplicates: list[NearDuplicate] = []
    for fingerprint_row, entry in enumerate(ranked):
        close = (
            np.bitwise_count(hashes[:fingerprint_row] ^ hashes[fingerprint_row])
            <= NEAR_DUPLICATE_BITS
        )
        # Only those that stay count, so that comparing these again finds no more to leave out.
        near = [
            ranked[other] for other in np.flatnonzero(close & kept[:fingerprint_row])[:MAX_COMPARED]
        ]
        duplicate_of = next(
            (one for one in near if are_copies(small(entry.path), small(one.path))), None
        )
        if duplicate_of is not None:
            kept[fingerprint_row] = False
            left_out.append(
                _left_out(entry.picture.name, "nearly the same picture as", duplicate_of)
            )
        elif near:
            near_duplicates.append(
                NearDuplicate(name=entry.picture.name, duplicate_of=near[0].picture.name)
            )
    return Duplicates(
        left_out=tuple(sorted(left_out, key=lambda entry: entry.name)),
        near_duplicates=tuple(sorted(near_duplicates, key=lambda pair: pair.name)),
    )


def _area(entry: PictureLocation) -> int:
    return entry.picture.width * entry.picture.height
