"""Pictures that repeat another one: exactly, nearly, or a part of it.

Those that must stay unseen (held-out pictures, benchmarks) are put into an index once; every other
picture is then looked up in it, so the cost grows with the number of pictures and not its square.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from superres.fingerprint import (
    DESCRIPTOR_BYTES,
    Fingerprint,
    place_of,
    show_the_same,
    whole_onto,
)
from superres.image import read
from superres.manifest import LeftOut, Twins
from training.data.loading import rgb8
from training.data.plan import BENCHMARK
from training.data.shards import Located, read_prints
from training.data.workers import Job, run_jobs

NEAR_BITS = 10  # of 64: candidates only, the pixels decide
ALIKE_BITS = 4  # of 64: unrelated photographs differ in about 32
CHUNKS = DESCRIPTOR_BYTES // 2
MOST_BITS = 64  # of 256 in which two descriptors of one detail differ
CROWD = 64  # a chunk that more descriptors share says nothing
LEAST_VOTES, LEAST_AGREEING = 6, 6
MOST_CANDIDATES = 4
BLOCK = 1024

Hashes = npt.NDArray[np.uint64]
Pixels = npt.NDArray[np.uint8]
Open = Callable[[int], Pixels]


class Held(NamedTuple):
    """A picture that no other may repeat: where its fingerprint and where its pixels lie."""

    folder: Path
    place: int
    path: Path


class Found(NamedTuple):
    """The position in an index of what a picture repeats, and how."""

    position: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Pictures that must go, and pairs of training pictures that look alike and may stay."""

    left_out: tuple[LeftOut, ...]
    alike: tuple[Twins, ...]


def find_repeats(located: Sequence[Located], *, workers: int) -> Repeats:
    """Which of the pictures repeat another one, of two the one that is needed less.

    A benchmark's picture outranks one held out for validation, and that one in training. Within a
    split only identical pixels go; training pictures that are merely alike are told of.
    """
    ranks = {BENCHMARK: 0, "validation": 1, "train": 2}
    kept, left_out = _without_copies(
        sorted(located, key=lambda entry: (ranks[entry.picture.split], entry.picture.name))
    )
    held: list[Located] = []
    for split in ranks:
        entries = [entry for entry in kept if entry.picture.split == split]
        if held and split != BENCHMARK:
            twins = _look_up_all(entries, held, workers=workers)
            left_out += [twins[name] for name in sorted(twins)]
            entries = [entry for entry in entries if entry.picture.name not in twins]
        if split == "train":
            return Repeats(left_out=tuple(left_out), alike=tuple(_alike(entries)))
        held += entries
    raise AssertionError("train is the last of the splits")


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
    prints, index, found = read_prints(folder), _index(held), {}
    for name, place, path in places:
        twin = index.find(prints[place], lambda path=path: rgb8(read(path)))
        if twin is not None:
            found[name] = twin
    return found


@lru_cache(maxsize=1)
def _index(held: tuple[Held, ...]) -> "Index":
    """Built once in each worker process."""
    prints: dict[Path, list[Fingerprint]] = {}
    for entry in held:
        if entry.folder not in prints:
            prints[entry.folder] = read_prints(entry.folder)
    return Index(
        [prints[entry.folder][entry.place] for entry in held],
        lambda position: rgb8(read(held[position].path)),
    )


def _alike(training: Sequence[Located]) -> Iterator[Twins]:
    """Each training picture that nearly repeats an earlier one, with the first such."""
    hashes = np.array([int(entry.picture.rows[0].phash, 16) for entry in training], np.uint64)
    twins: dict[int, int] = {}
    for later, earlier in near_pairs(hashes, ALIKE_BITS):
        twins[later] = min(earlier, twins.get(later, earlier))
    for later in sorted(twins):
        yield Twins(name=training[later].picture.name, twin=training[twins[later]].picture.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """Which descriptor of a query looks like which of the index, row by row."""

    query: npt.NDArray[np.intp]
    held: npt.NDArray[np.intp]


class Index:
    """Fingerprints to look others up in; `find` tells which of them a picture repeats."""

    def __init__(self, prints: Sequence[Fingerprint], open_picture: Open) -> None:
        """`open_picture` reads the pixels of one of `prints`, by its position."""
        self._hashes = np.array([print_.phash for print_ in prints], np.uint64)
        self._owners = np.repeat(
            np.arange(len(prints)), [len(print_.descriptors) for print_ in prints]
        )
        empty = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
        self._descriptors = np.concatenate([empty, *(print_.descriptors for print_ in prints)])
        self._points = np.concatenate(
            [np.empty((0, 2), np.float32), *(print_.points_xy for print_ in prints)]
        )
        self._open = open_picture
        keys = self._descriptors.view(np.uint16)
        self._orders = [np.argsort(keys[:, chunk], kind="stable") for chunk in range(CHUNKS)]
        self._keys = [keys[order, chunk] for chunk, order in enumerate(self._orders)]

    def find(self, print_: Fingerprint, picture: Callable[[], Pixels]) -> Found | None:
        """Which of the index this picture repeats, whole or in part, if any."""
        for position in near(print_.phash, self._hashes):
            first, second = picture(), self._open(position)
            if show_the_same(first, second, whole_onto(first, second)):
                return Found(position, "nearly the same picture as")
        for position, first_xy, second_xy in self._candidates(print_):
            placed = place_of(first_xy, second_xy)
            if placed is None or placed[1] < LEAST_AGREEING:
                continue
            if show_the_same(picture(), self._open(position), placed[0]):
                return Found(position, "shows the same scene as a part of")
        return None

    def _candidates(
        self, print_: Fingerprint
    ) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Pictures that share many details with this one, those that share most first."""
        matches = self._matches(print_.descriptors)
        owners = self._owners[matches.held]
        # One vote for each detail of the query, however often the other picture has its like.
        voters = np.unique(np.stack((owners, matches.query)), axis=1)[0]
        votes = np.bincount(voters, minlength=1)
        for position in np.argsort(-votes, kind="stable")[:MOST_CANDIDATES]:
            if votes[position] < LEAST_VOTES:
                return
            ours = owners == position
            yield (
                int(position),
                print_.points_xy[matches.query[ours]],
                self._points[matches.held[ours]],
            )

    def _matches(self, descriptors: Pixels) -> Matches:
        """Pairs of descriptors that share a 16-bit chunk and differ in few bits overall."""
        keys = np.ascontiguousarray(descriptors).view(np.uint16)
        queries, helds = [], []
        for chunk in range(CHUNKS):
            starts = np.searchsorted(self._keys[chunk], keys[:, chunk], side="left")
            stops = np.searchsorted(self._keys[chunk], keys[:, chunk], side="right")
            counts = np.where(stops - starts <= CROWD, stops - starts, 0)
            query = np.repeat(np.arange(len(keys)), counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            queries.append(query)
            helds.append(self._orders[chunk][np.repeat(starts, counts) + within])
        query, held = np.concatenate(queries), np.concatenate(helds)
        differing = np.bitwise_count(
            descriptors[query].view(np.uint64) ^ self._descriptors[held].view(np.uint64)
        )
        near_enough = differing.sum(axis=1) <= MOST_BITS
        pairs = np.unique(np.stack((query[near_enough], held[near_enough])), axis=1)
        return Matches(query=pairs[0], held=pairs[1])


def near(phash: int, hashes: Hashes) -> list[int]:
    """Positions of the hashes that differ from one in few bits, the nearest first."""
    distances = np.bitwise_count(hashes ^ np.uint64(phash))
    positions = np.flatnonzero(distances <= NEAR_BITS)
    return positions[np.argsort(distances[positions], kind="stable")].tolist()


def near_pairs(hashes: Hashes, most_bits: int) -> Iterator[tuple[int, int]]:
    """Positions (later, earlier) of all pairs that differ in at most `most_bits`, by blocks."""
    for start in range(0, len(hashes), BLOCK):
        later = hashes[start : start + BLOCK]
        for other in range(0, start + 1, BLOCK):
            earlier = hashes[other : other + BLOCK]
            distances = np.bitwise_count(later[:, None] ^ earlier[None])
            for row, column in zip(*np.nonzero(distances <= most_bits), strict=True):
                if other + column < start + row:
                    yield int(start + row), int(other + column)
