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
from superres.dataset.manifest import LeftOut, Twins
from superres.image.codecs import read
from training.data.leaks.holdout_index import Found, Index
from training.data.shards.fingerprints import Looks, read_prints
from training.data.shards.loading import Pixels, rgb8
from training.data.shards.plan import BENCHMARK
from training.data.shards.shards import Located
from training.data.workers import Job, run_jobs

ALIKE_BITS = 4  # of 64: unrelated photographs differ in about 32
MOST_COMPARED = 4  # of the pictures that one looks like: many alike would be compared in pairs
SMALL_KEPT = 1024  # thumbnails, of 27 KB each


class Held(NamedTuple):
    """A picture that no other may repeat: where its fingerprint and where its pixels lie."""

    folder: Path
    place: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Pictures that must go, and pairs of pictures in one split that look alike and may stay."""

    left_out: tuple[LeftOut, ...]
    alike: tuple[Twins, ...]


def find_repeats(located: Sequence[Located], *, workers: int) -> Repeats:
    """Which of the pictures repeat another one, of two the one that is needed less.

    A benchmark's picture outranks one held out for validation, and that one in training. Within a
    split copies go, and pictures that are merely alike are told of.
    """
    ranks = {BENCHMARK: 0, "validation": 1, "train": 2}
    kept, left_out = _without_copies(
        sorted(located, key=lambda entry: (ranks[entry.picture.split], entry.picture.name))
    )
    held = [entry for entry in kept if entry.picture.split == BENCHMARK]
    alike: list[Twins] = []
    for split in ("validation", "train"):
        entries = [entry for entry in kept if entry.picture.split == split]
        if held:
            twins = _look_up_all(entries, held, workers=workers)
            left_out += [twins[name] for name in sorted(twins)]
            entries = [entry for entry in entries if entry.picture.name not in twins]
        within = _compare_within(entries)
        left_out += within.left_out
        alike += within.alike
        gone = {entry.name for entry in within.left_out}
        held += [entry for entry in entries if entry.picture.name not in gone]
    return Repeats(left_out=tuple(left_out), alike=tuple(alike))


def _without_copies(ranked: Sequence[Located]) -> tuple[list[Located], list[LeftOut]]:
    """The pictures less those whose pixels an earlier one has too."""
    first: dict[str, Located] = {}
    kept, left_out = [], []
    for entry in ranked:
        twin = first.setdefault(entry.picture.hr_sha256, entry)
        if twin is entry or entry.picture.split == BENCHMARK:
            kept.append(entry)
        else:
            left_out.append(_left_out(entry.picture.name, "the same picture as", twin))
    return kept, left_out


def _left_out(name: str, how: str, twin: Located) -> LeftOut:
    picture = twin.picture
    return LeftOut(name=name, reason=f"{how} {picture.name} ({picture.split})", twin=picture.name)


def _look_up_all(
    entries: Sequence[Located], held: Sequence[Located], *, workers: int
) -> dict[str, LeftOut]:
    """What each of `entries` repeats of `held`, by name, looked up shard by shard."""
    where = tuple(Held(entry.folder, entry.place, entry.path) for entry in held)
    by_shard = groupby(sorted(entries, key=lambda entry: entry.folder), lambda entry: entry.folder)
    jobs = (
        Job(
            f"comparing {folder.name}",
            (folder, [(entry.picture.name, entry.place, entry.path) for entry in shard], where),
        )
        for folder, shard in by_shard
    )
    found: dict[str, LeftOut] = {}
    for names in run_jobs(_look_up, jobs, workers=workers):
        for name, (position, how) in names.items():
            found[name] = _left_out(name, how, held[position])
    return found


def _look_up(
    folder: Path, places: Sequence[tuple[str, int, Path]], held: tuple[Held, ...]
) -> dict[str, Found]:
    looks, index, found = read_prints(folder), _index(held), {}
    for name, place, path in places:
        twin = index.find(looks[place].upright, lambda path=path: rgb8(read(path)))
        if twin is not None:
            mirrored, position = divmod(twin.position, len(held))
            found[name] = Found(position, f"mirrored, {twin.how}" if mirrored else twin.how)
    return found


@lru_cache(maxsize=1)
def _index(held: tuple[Held, ...]) -> Index:
    """Built once in each worker process: the pictures as they are, then the same mirrored."""
    stored: dict[Path, list[Looks]] = {}
    for entry in held:
        if entry.folder not in stored:
            stored[entry.folder] = read_prints(entry.folder)
    looks = [stored[entry.folder][entry.place] for entry in held]

    def opened(position: int) -> Pixels:
        mirrored, place = divmod(position, len(held))
        rgb_hwc = rgb8(read(held[place].path))
        return mirror_image(rgb_hwc) if mirrored else rgb_hwc

    return Index([*(look.upright for look in looks), *(look.mirrored for look in looks)], opened)


def _compare_within(entries: Sequence[Located]) -> Repeats:
    """Of the pictures of one split, copies of a larger or earlier one, and those merely alike."""
    ranked = sorted(entries, key=lambda entry: (-_area(entry), entry.picture.name))
    hashes = np.array([int(entry.picture.rows[0].phash, 16) for entry in ranked], np.uint64)
    small = lru_cache(SMALL_KEPT)(lambda path: thumbnail(rgb8(read(path))))
    kept = np.ones(len(ranked), bool)
    left_out: list[LeftOut] = []
    alike: list[Twins] = []
    for place, entry in enumerate(ranked):
        close = np.bitwise_count(hashes[:place] ^ hashes[place]) <= ALIKE_BITS
        # Only those that stay count, so that comparing these again finds no more to leave out.
        near = [ranked[other] for other in np.flatnonzero(close & kept[:place])[:MOST_COMPARED]]
        twin = next((one for one in near if are_copies(small(entry.path), small(one.path))), None)
        if twin is not None:
            kept[place] = False
            left_out.append(_left_out(entry.picture.name, "nearly the same picture as", twin))
        elif near:
            alike.append(Twins(name=entry.picture.name, twin=near[0].picture.name))
    return Repeats(
        left_out=tuple(sorted(left_out, key=lambda entry: entry.name)),
        alike=tuple(sorted(alike, key=lambda pair: pair.name)),
    )


def _area(entry: Located) -> int:
    return entry.picture.width * entry.picture.height
