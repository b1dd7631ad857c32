"""Looks a fingerprint up among those of pictures that must stay unseen."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from superres.analysis.fingerprint import (
    DESCRIPTOR_BYTES,
    Fingerprint,
    Keypoints,
    place_of,
    show_the_same,
    whole_onto,
)

NEAR_BITS = 10  # of 64: candidates only, the pixels decide
CHUNKS = DESCRIPTOR_BYTES // 2
MAX_BITS = 48  # of 256 in which descriptors may differ and still give a vote
MIN_CROWD, CROWD_SHARE = 16, 10_000  # a chunk that more, and one in so many, share says nothing
MIN_VOTES, MAX_CANDIDATES, MAX_MATCHES = 3, 6, 48
KEYPOINTS_PER_VOTE = 200
DIRECTIONS = 8

Hashes = npt.NDArray[np.uint64]
Pixels = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.intp]
Cells = npt.NDArray[np.int64]
Open = Callable[[int], Pixels]


class HoldoutMatch(NamedTuple):
    """The position in an index of what a picture repeats, and how."""

    position: int
    how: str


class HoldoutIndex:
    """Fingerprints to look others up in; `find` tells which of them a picture repeats."""

    def __init__(self, fingerprints: Sequence[Fingerprint], open_picture: Open) -> None:
        """`open_picture` reads the pixels of one of `fingerprints`, by its position."""
        self._open = open_picture
        self._hashes = np.array([fingerprint.phash for fingerprint in fingerprints], np.uint64)
        self._owners = np.repeat(
            np.arange(len(fingerprints)),
            [len(fingerprint.descriptors) for fingerprint in fingerprints],
        )
        self._details = Keypoints.join([fingerprint.keypoints for fingerprint in fingerprints])
        empty = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
        self._descriptors = np.concatenate(
            [empty, *(fingerprint.descriptors for fingerprint in fingerprints)]
        )
        self._crowd = max(MIN_CROWD, len(self._descriptors) // CROWD_SHARE)
        keys = self._descriptors.view(np.uint16)
        self._orders = [
            np.argsort(keys[:, chunk], kind="stable").astype(np.int32) for chunk in range(CHUNKS)
        ]
        self._keys = [keys[order, chunk] for chunk, order in enumerate(self._orders)]

    def find(self, fingerprint: Fingerprint, picture: Callable[[], Pixels]) -> HoldoutMatch | None:
        """Which of the index this picture repeats, whole or in part, if any."""
        for position in near(fingerprint.phash, self._hashes):
            first, second = picture(), self._open(position)
            if show_the_same(first, second, whole_onto(first, second)):
                return HoldoutMatch(position, "nearly the same picture as")
        for position, query, holdout in self._candidates(fingerprint):
            placed = place_of(fingerprint.keypoints.take(query), self._details.take(holdout))
            if placed is None or placed[1] < _least(fingerprint):
                continue
            if show_the_same(picture(), self._open(position), placed[0]):
                return HoldoutMatch(position, "shows the same scene as a part of")
        return None

    def _candidates(self, fingerprint: Fingerprint) -> Iterator[tuple[int, Positions, Positions]]:
        """Pictures in which many details agree on where this one lies in them, the likeliest first:
        position, and these details here and in the index.

        A detail's own size and direction make each match a guess of the whole place (Lowe 2004,
        section 7.3). Guesses are counted in coarse cells, twice, for they may fall on an edge.
        """
        query, holdout = self._matches(fingerprint.descriptors)
        if not len(query):
            return
        peaks: list[tuple[int, int, Positions]] = []
        for shift in (0.0, 0.5):
            cells = self._cells(fingerprint.keypoints, query, holdout, shift)
            order = np.lexsort(cells)
            new = np.any(np.diff(cells[:, order], axis=1), axis=0)
            starts = np.concatenate(([0], np.flatnonzero(new) + 1))
            sizes = np.diff(np.append(starts, len(order)))
            for peak in np.argsort(-sizes, kind="stable")[:MAX_CANDIDATES]:
                part = order[starts[peak] : starts[peak] + sizes[peak]]
                # One vote for each detail of the query, however often the other has its like.
                part = part[np.unique(query[part], return_index=True)[1]]
                if len(part) >= _least(fingerprint):
                    peaks.append((len(part), int(self._owners[holdout[part[0]]]), part))
        peaks.sort(key=lambda peak: -peak[0])
        for _, position, part in peaks[:MAX_CANDIDATES]:
            part = part[:MAX_MATCHES]
            yield position, query[part], holdout[part]

    def _cells(
        self, keypoints: Keypoints, query: Positions, holdout: Positions, shift: float
    ) -> Cells:
        """Where each match lays the query, (5, n): row, column, direction, octave and picture."""
        x, y = keypoints.points.real, keypoints.points.imag
        middle = (x.min() + x.max() + 1j * (y.min() + y.max())) / 2
        extent = max(np.ptp(x), np.ptp(y), 1.0)
        ratios = self._details.arms[holdout] / keypoints.arms[query]
        centres = self._details.points[holdout] + ratios * (middle - keypoints.points[query])
        octaves = np.floor(np.log2(np.abs(ratios)) + shift)
        directions = np.floor(np.angle(ratios) * (DIRECTIONS / (2 * np.pi)) + shift) % DIRECTIONS
        centres /= np.exp2(octaves) * extent / 2
        columns, rows = np.floor(centres.real + shift), np.floor(centres.imag + shift)
        return np.stack((rows, columns, directions, octaves, self._owners[holdout])).astype(
            np.int64
        )

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
            counts = np.where(stops - starts <= self._crowd, stops - starts, 0)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            queries.append(np.repeat(np.arange(len(keys)), counts))
            helds.append(self._orders[chunk][np.repeat(starts, counts) + within])
        query, holdout = np.concatenate(queries), np.concatenate(helds)
        ours, theirs = (
            descriptors.view(np.uint64)[query],
            self._descriptors.view(np.uint64)[holdout],
        )
        near_duplicates = np.bitwise_count(ours ^ theirs).sum(axis=1) <= MAX_BITS
        return query[near_duplicates], holdout[near_duplicates]


def _least(fingerprint: Fingerprint) -> int:
    """How many details must agree: the more there are, the more do by chance."""
    return max(MIN_VOTES, len(fingerprint.descriptors) // KEYPOINTS_PER_VOTE)


def near(phash: int, hashes: Hashes) -> list[int]:
    """Positions of the hashes that differ from one in few bits, the nearest first."""
    distances = np.bitwise_count(hashes ^ np.uint64(phash))
    positions = np.flatnonzero(distances <= NEAR_BITS)
    return positions[np.argsort(distances[positions], kind="stable")].tolist()
