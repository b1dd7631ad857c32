"""Finds duplicates: pictures that repeat another one exactly, nearly or in part.

Hold-out pictures (validation, benchmarks) are indexed once, upright and mirrored, and every other
picture is looked up in the index: the cost is linear in the number of pictures, not quadratic.
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
MAX_COMPARED = 4  # near-duplicates compared per picture; bounds the cost of large clusters
CACHED_THUMBNAILS = 1024  # of 27 KB each


class HoldoutPicture(NamedTuple):
    """A hold-out picture: the folder and row of its fingerprint, the path of its pixels."""

    folder: Path
    fingerprint_row: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Pictures to leave out, and near-duplicates within a split, which may stay."""

    left_out: tuple[LeftOut, ...]
    near_duplicates: tuple[NearDuplicate, ...]


def find_duplicates(locations: Sequence[PictureLocation], *, workers: int) -> Duplicates:
    """Find the duplicates to leave out; of two pictures the one with the lower priority.

    Benchmark pictures have priority over validation pictures, and those over training pictures.
    Within a split copies are left out, and near-duplicates are only reported.
    """
    priority = {BENCHMARK: 0, "validation": 1, "train": 2}
    kept, left_out = _without_copies(
        sorted(locations, key=lambda entry: (priority[entry.picture.split], entry.picture.name))
    )
    holdout = [entry for entry in kept if entry.picture.split == BENCHMARK]
    near_duplicates: list[NearDuplicate] = []
    for split in ("validation", "train"):
        entries = [entry for entry in kept if entry.picture.split == split]
        if holdout:
            matches = _look_up_all(entries, holdout, workers=workers)
            left_out += [matches[name] for name in sorted(matches)]
            entries = [entry for entry in entries if entry.picture.name not in matches]
        within = _compare_within(entries)
        left_out += within.left_out
        near_duplicates += within.near_duplicates
        removed = {entry.name for entry in within.left_out}
        holdout += [entry for entry in entries if entry.picture.name not in removed]
    return Duplicates(left_out=tuple(left_out), near_duplicates=tuple(near_duplicates))


def _without_copies(
    ranked: Sequence[PictureLocation],
) -> tuple[list[PictureLocation], list[LeftOut]]:
    """The pictures without exact copies of an earlier one."""
    first: dict[str, PictureLocation] = {}
    kept, left_out = [], []
    for entry in ranked:
        duplicate_of = first.setdefault(entry.picture.hr_sha256, entry)
        if duplicate_of is entry or entry.picture.split == BENCHMARK:
            kept.append(entry)
        else:
            left_out.append(_left_out(entry.picture.name, "the same picture as", duplicate_of))
    return kept, left_out


def _left_out(name: str, relation: str, duplicate_of: PictureLocation) -> LeftOut:
    picture = duplicate_of.picture
    return LeftOut(
        name=name, reason=f"{relation} {picture.name} ({picture.split})", duplicate_of=picture.name
    )


def _look_up_all(
    entries: Sequence[PictureLocation], holdout: Sequence[PictureLocation], *, workers: int
) -> dict[str, LeftOut]:
    """The entries that duplicate a picture of `holdout`, by name; one task per shard."""
    holdout_pictures = tuple(
        HoldoutPicture(entry.folder, entry.fingerprint_row, entry.path) for entry in holdout
    )
    by_shard = groupby(sorted(entries, key=lambda entry: entry.folder), lambda entry: entry.folder)
    tasks = (
        WorkerTask(
            f"comparing {folder.name}",
            (
                folder,
                [(entry.picture.name, entry.fingerprint_row, entry.path) for entry in shard],
                holdout_pictures,
            ),
        )
        for folder, shard in by_shard
    )
    found: dict[str, LeftOut] = {}
    for names in run_tasks(_look_up, tasks, workers=workers):
        for name, (position, relation) in names.items():
            found[name] = _left_out(name, relation, holdout[position])
    return found


def _look_up(
    folder: Path, lookups: Sequence[tuple[str, int, Path]], holdout: tuple[HoldoutPicture, ...]
) -> dict[str, HoldoutMatch]:
    fingerprints, index, found = read_fingerprints(folder), _index(holdout), {}
    for name, fingerprint_row, path in lookups:
        match = index.find(
            fingerprints[fingerprint_row].upright, lambda path=path: rgb8(read(path))
        )
        if match is not None:
            mirrored, position = divmod(match.position, len(holdout))
            relation = f"mirrored, {match.relation}" if mirrored else match.relation
            found[name] = HoldoutMatch(position, relation)
    return found


@lru_cache(maxsize=1)
def _index(holdout: tuple[HoldoutPicture, ...]) -> HoldoutIndex:
    """The index of upright, then mirrored hold-out pictures; built once per worker process."""
    stored: dict[Path, list[PictureFingerprint]] = {}
    for entry in holdout:
        if entry.folder not in stored:
            stored[entry.folder] = read_fingerprints(entry.folder)
    fingerprints = [stored[entry.folder][entry.fingerprint_row] for entry in holdout]

    def open_picture(position: int) -> Pixels:
        mirrored, index = divmod(position, len(holdout))
        rgb_hwc = rgb8(read(holdout[index].path))
        return mirror_image(rgb_hwc) if mirrored else rgb_hwc

    return HoldoutIndex(
        [*(entry.upright for entry in fingerprints), *(entry.mirrored for entry in fingerprints)],
        open_picture,
    )


def _compare_within(entries: Sequence[PictureLocation]) -> Duplicates:
    """Within one split: copies of a larger or earlier picture, and near-duplicates."""
    ranked = sorted(entries, key=lambda entry: (-_area(entry), entry.picture.name))
    hashes = np.array([int(entry.picture.rows[0].phash, 16) for entry in ranked], np.uint64)
    cached_thumbnail = lru_cache(CACHED_THUMBNAILS)(lambda path: thumbnail(rgb8(read(path))))
    kept = np.ones(len(ranked), bool)
    left_out: list[LeftOut] = []
    near_duplicates: list[NearDuplicate] = []
    for rank, entry in enumerate(ranked):
        similar = np.bitwise_count(hashes[:rank] ^ hashes[rank]) <= NEAR_DUPLICATE_BITS
        # Compared with kept pictures only, so that a second run finds no more to leave out.
        near = [ranked[other] for other in np.flatnonzero(similar & kept[:rank])[:MAX_COMPARED]]
        duplicate_of = next(
            (
                other
                for other in near
                if are_copies(cached_thumbnail(entry.path), cached_thumbnail(other.path))
            ),
            None,
        )
        if duplicate_of is not None:
            kept[rank] = False
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
