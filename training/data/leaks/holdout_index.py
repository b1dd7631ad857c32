"""Looks a fingerprint up among those of pictures that must stay unseen."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from superres.analysis.fingerprint import (
    DESCRIPTOR_BYTES,
    Details,
    Fingerprint,
    place_of,
    show_the_same,
    whole_onto,
)

NEAR_BITS = 10  # of 64: candidates only, the pixels decide
CHUNKS = DESCRIPTOR_BYTES // 2
MOST_BITS = 48  # of 256 in which descriptors may differ and still give a vote
LEAST_CROWD, CROWD_SHARE = 16, 10_000  # a chunk that more, and one in so many, share says nothing
LEAST_VOTES, MOST_CANDIDATES, MOST_MATCHES = 3, 6, 48
DETAILS_A_VOTE = 200
DIRECTIONS = 8

Hashes = npt.NDArray[np.uint64]
Pixels = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.intp]
Cells = npt.NDArray[np.int64]
Open = Callable[[int], Pixels]


class Found(NamedTuple):
    """The position in an index of what a picture repeats, and how."""

    position: int
    how: str


class Index:
    """Fingerprints to look others up in; `find` tells which of them a picture repeats."""

    def __init__(self, prints: Sequence[Fingerprint], open_picture: Open) -> None:
        """`open_picture` reads the pixels of one of `prints`, by its position."""
        self._open = open_picture
        self._hashes = np.array([print_.phash for print_ in prints], np.uint64)
        self._owners = np.repeat(
            np.arange(len(prints)), [len(print_.descriptors) for print_ in prints]
        )
        self._details = Details.join([print_.details for print_ in prints])
        empty = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
        self._descriptors = np.concatenate([empty, *(print_.descriptors for print_ in prints)])
        self._crowd = max(LEAST_CROWD, len(self._descriptors) // CROWD_SHARE)
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
        for position, query, held in self._candidates(print_):
            placed = place_of(print_.details.take(query), self._details.take(held))
            if placed is None or placed[1] < _least(print_):
                continue
            if show_the_same(picture(), self._open(position), placed[0]):
                return Found(position, "shows the same scene as a part of")
        return None

    def _candidates(self, print_: Fingerprint) -> Iterator[tuple[int, Positions, Positions]]:
        """Pictures in which many details agree on where this one lies in them, the likeliest first:
        position, and these details here and in the index.

        A detail's own size and direction make each match a guess of the whole place (Lowe 2004,
        section 7.3). Guesses are counted in coarse cells, twice, for they may fall on an edge.
        """
        query, held = self._matches(print_.descriptors)
        if not len(query):
            return
        peaks: list[tuple[int, int, Positions]] = []
        for shift in (0.0, 0.5):
            cells = self._cells(print_.details, query, held, shift)
            order = np.lexsort(cells)
            new = np.any(np.diff(cells[:, order], axis=1), axis=0)
            starts = np.concatenate(([0], np.flatnonzero(new) + 1))
            sizes = np.diff(np.append(starts, len(order)))
            for peak in np.argsort(-sizes, kind="stable")[:MOST_CANDIDATES]:
                part = order[starts[peak] : starts[peak] + sizes[peak]]
                # One vote for each detail of the query, however often the other has its like.
                part = part[np.unique(query[part], return_index=True)[1]]
                if len(part) >= _least(print_):
                    peaks.append((len(part), int(self._owners[held[part[0]]]), part))
        peaks.sort(key=lambda peak: -peak[0])
        for _, position, part in peaks[:MOST_CANDIDATES]:
            part = part[:MOST_MATCHES]
            yield position, query[part], held[part]

    def _cells(self, details: Details, query: Positions, held: Positions, shift: float) -> Cells:
        """Where each match lays the query, (5, n): row, column, direction, octave and picture."""
        x, y = details.points.real, details.points.imag
        middle = (x.min() + x.max() + 1j * (y.min() + y.max())) / 2
        extent = max(np.ptp(x), np.ptp(y), 1.0)
        ratios = self._details.arms[held] / details.arms[query]
        centres = self._details.points[held] + ratios * (middle - details.points[query])
        octaves = np.floor(np.log2(np.abs(ratios)) + shift)
        directions = np.floor(np.angle(ratios) * (DIRECTIONS / (2 * np.pi)) + shift) % DIRECTIONS
        centres /= np.exp2(octaves) * extent / 2
        columns, rows = np.floor(centres.real + shift), np.floor(centres.imag + shift)
        return np.stack((rows, columns, directions, octaves, self._owners[held])).astype(np.int64)

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
        query, held = np.concatenate(queries), np.concatenate(helds)
        ours, theirs = descriptors.view(np.uint64)[query], self._descriptors.view(np.uint64)[held]
        alike = np.bitwise_count(ours ^ theirs).sum(axis=1) <= MOST_BITS
        return query[alike], held[alike]


def _least(print_: Fingerprint) -> int:
    """How many details must agree: the more there are, the more do by chance."""
    return max(LEAST_VOTES, len(print_.descriptors) // DETAILS_A_VOTE)


def near(phash: int, hashes: Hashes) -> list[int]:
    """Positions of the hashes that differ from one in few bits, the nearest first."""
    distances = np.bitwise_count(hashes ^ np.uint64(phash))
    positions = np.flatnonzero(distances <= NEAR_BITS)
    return positions[np.argsort(distances[positions], kind="stable")].tolist()
