"""Looks a fingerprint up among those of pictures that must stay unseen."""

from collections.abc import Callable, Iterator, Sequence
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

NEAR_BITS = 10  # of 64: candidates only, the pixels decide
CHUNKS = DESCRIPTOR_BYTES // 2
MOST_BITS = 48  # of 256 in which descriptors may differ and still give a vote
CROWD = 64  # a chunk that more descriptors share says nothing
LEAST_VOTES, LEAST_AGREEING = 6, 8
MOST_CANDIDATES = 6
BLOCK = 1024

Hashes = npt.NDArray[np.uint64]
Pixels = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.intp]
Open = Callable[[int], Pixels]


class Found(NamedTuple):
    """The position in an index of what a picture repeats, and how."""

    position: int
    how: str


class Index:
    """Fingerprints to look others up in; `find` tells which of them a picture repeats."""

    def __init__(self, prints: Sequence[Fingerprint], open_picture: Open) -> None:
        """`open_picture` reads the pixels of one of `prints`, by its position."""
        self._prints, self._open = tuple(prints), open_picture
        self._hashes = np.array([print_.phash for print_ in prints], np.uint64)
        counts = [len(print_.descriptors) for print_ in prints]
        self._owners = np.repeat(np.arange(len(prints)), counts)
        empty = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
        self._descriptors = np.concatenate([empty, *(print_.descriptors for print_ in prints)])
        keys = self._descriptors.view(np.uint16)
        self._orders = [
            np.argsort(keys[:, chunk], kind="stable").astype(np.int32) for chunk in range(CHUNKS)
        ]
        self._keys = [keys[order, chunk] for chunk, order in enumerate(self._orders)]

    def find(self, print_: Fingerprint, picture: Callable[[], Pixels]) -> Found | None:
        """Which of the index this picture repeats, whole or in part, if any."""
        for position in near(print_.phash, self._hashes):
            first, second = picture(), self._open(position)
            if show_the_same(first, second, whole_onto(first, second)):
                return Found(position, "nearly the same picture as")
        for position in self._candidates(print_.descriptors):
            placed = place_of(print_, self._prints[position])
            if placed is None or placed[1] < LEAST_AGREEING:
                continue
            if show_the_same(picture(), self._open(position), placed[0]):
                return Found(position, "shows the same scene as a part of")
        return None

    def _candidates(self, descriptors: Pixels) -> Iterator[int]:
        """Positions of the pictures that share many details with these, the most likely first."""
        query, held = self._matches(descriptors)
        # One vote for each detail of the query, however often the other picture has its like.
        voters = np.unique(np.stack((self._owners[held], query)), axis=1)[0]
        votes = np.bincount(voters, minlength=1)
        for position in np.argsort(-votes, kind="stable")[:MOST_CANDIDATES].tolist():
            if votes[position] >= LEAST_VOTES:
                yield position

    def _matches(self, descriptors: Pixels) -> tuple[Positions, Positions]:
        """Pairs of descriptors, here and in the index, that share 16 bits and nearly all others.

        Only those that share one of their 16 chunks are compared: of two that differ in 26 bits,
        as half of those do that show one detail, 97 in 100 share one.
        """
        keys = np.ascontiguousarray(descriptors).view(np.uint16)
        queries, helds = [], []
        for chunk in range(CHUNKS):
            starts = np.searchsorted(self._keys[chunk], keys[:, chunk], side="left")
            stops = np.searchsorted(self._keys[chunk], keys[:, chunk], side="right")
            counts = np.where(stops - starts <= CROWD, stops - starts, 0)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            queries.append(np.repeat(np.arange(len(keys)), counts))
            helds.append(self._orders[chunk][np.repeat(starts, counts) + within])
        query, held = np.concatenate(queries), np.concatenate(helds)
        ours, theirs = descriptors.view(np.uint64)[query], self._descriptors.view(np.uint64)[held]
        alike = np.bitwise_count(ours ^ theirs).sum(axis=1) <= MOST_BITS
        return query[alike], held[alike]


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
