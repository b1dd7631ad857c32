"""An index of hold-out fingerprints that finds the duplicates of a picture."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from superres.analysis.fingerprint import (
    DESCRIPTOR_BYTES,
    Fingerprint,
    Keypoints,
    estimate_similarity,
    pictures_match,
    resize_transform,
)

NEAR_BITS = 10  # of 64: candidates only, the pixels decide
CHUNKS = DESCRIPTOR_BYTES // 2
MAX_BITS = 48  # of 256 in which two descriptors may differ and still match
# A chunk that more than 16 descriptors, and more than one in 10,000, share is too common to use.
MIN_BUCKET_LIMIT, BUCKET_LIMIT_SHARE = 16, 10_000
MIN_VOTES, MAX_CANDIDATES, MAX_MATCHES = 3, 6, 48
KEYPOINTS_PER_VOTE = 200
DIRECTIONS = 8

Hashes = npt.NDArray[np.uint64]
Pixels = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.intp]
PoseCells = npt.NDArray[np.int64]
OpenPicture = Callable[[int], Pixels]


class HoldoutMatch(NamedTuple):
    """The index position of the duplicated picture, and the relation to it as text."""

    position: int
    relation: str


class HoldoutIndex:
    """An index of fingerprints; `find` returns the indexed picture that another one duplicates."""

    def __init__(self, fingerprints: Sequence[Fingerprint], open_picture: OpenPicture) -> None:
        """`open_picture` reads the pixels of one of `fingerprints`, by its position."""
        self._open = open_picture
        self._hashes = np.array([fingerprint.phash for fingerprint in fingerprints], np.uint64)
        self._owners = np.repeat(
            np.arange(len(fingerprints)),
            [len(fingerprint.descriptors) for fingerprint in fingerprints],
        )
        self._keypoints = Keypoints.join([fingerprint.keypoints for fingerprint in fingerprints])
        empty = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
        self._descriptors = np.concatenate(
            [empty, *(fingerprint.descriptors for fingerprint in fingerprints)]
        )
        self._bucket_limit = max(MIN_BUCKET_LIMIT, len(self._descriptors) // BUCKET_LIMIT_SHARE)
        keys = self._descriptors.view(np.uint16)
        self._orders = [
            np.argsort(keys[:, chunk], kind="stable").astype(np.int32) for chunk in range(CHUNKS)
        ]
        self._keys = [keys[order, chunk] for chunk, order in enumerate(self._orders)]

    def find(self, fingerprint: Fingerprint, picture: Callable[[], Pixels]) -> HoldoutMatch | None:
        """The indexed picture that this one duplicates, whole or in part, or None."""
        for position in near_hashes(fingerprint.phash, self._hashes):
            first, second = picture(), self._open(position)
            if pictures_match(first, second, resize_transform(first, second)):
                return HoldoutMatch(position, "nearly the same picture as")
        for position, query, holdout in self._candidates(fingerprint):
            similarity = estimate_similarity(
                fingerprint.keypoints.take(query), self._keypoints.take(holdout)
            )
            if similarity is None or similarity[1] < _min_votes(fingerprint):
                continue
            if pictures_match(picture(), self._open(position), similarity[0]):
                return HoldoutMatch(position, "shows the same scene as a part of")
        return None

    def _candidates(self, fingerprint: Fingerprint) -> Iterator[tuple[int, Positions, Positions]]:
        """Indexed pictures in which many keypoint matches agree on one pose, best first: position,
        and the matching keypoints of the query and of the index.

        Each match predicts a pose from the scale and orientation of its keypoints (Lowe 2004,
        section 7.3). Poses vote in coarse bins, twice with shifted edges (Hough transform).
        """
        query, holdout = self._matches(fingerprint.descriptors)
        if not len(query):
            return
        peaks: list[tuple[int, int, Positions]] = []
        for shift in (0.0, 0.5):
            poses = self._pose_cells(fingerprint.keypoints, query, holdout, shift)
            order = np.lexsort(poses)
            new = np.any(np.diff(poses[:, order], axis=1), axis=0)
            starts = np.concatenate(([0], np.flatnonzero(new) + 1))
            sizes = np.diff(np.append(starts, len(order)))
            for peak in np.argsort(-sizes, kind="stable")[:MAX_CANDIDATES]:
                voters = order[starts[peak] : starts[peak] + sizes[peak]]
                # One vote per query keypoint, however many keypoints it matches.
                voters = voters[np.unique(query[voters], return_index=True)[1]]
                if len(voters) >= _min_votes(fingerprint):
                    peaks.append((len(voters), int(self._owners[holdout[voters[0]]]), voters))
        peaks.sort(key=lambda peak: -peak[0])
        for _, position, voters in peaks[:MAX_CANDIDATES]:
            voters = voters[:MAX_MATCHES]
            yield position, query[voters], holdout[voters]

    def _pose_cells(
        self, keypoints: Keypoints, query: Positions, holdout: Positions, shift: float
    ) -> PoseCells:
        """The pose bin of each match, (5, n): row, column, orientation, octave and picture."""
        x, y = keypoints.points.real, keypoints.points.imag
        middle = (x.min() + x.max() + 1j * (y.min() + y.max())) / 2
        extent = max(np.ptp(x), np.ptp(y), 1.0)
        ratios = self._keypoints.vectors[holdout] / keypoints.vectors[query]
        centres = self._keypoints.points[holdout] + ratios * (middle - keypoints.points[query])
        octaves = np.floor(np.log2(np.abs(ratios)) + shift)
        directions = np.floor(np.angle(ratios) * (DIRECTIONS / (2 * np.pi)) + shift) % DIRECTIONS
        centres /= np.exp2(octaves) * extent / 2
        columns, rows = np.floor(centres.real + shift), np.floor(centres.imag + shift)
        return np.stack((rows, columns, directions, octaves, self._owners[holdout])).astype(
            np.int64
        )

    def _matches(self, descriptors: Pixels) -> tuple[Positions, Positions]:
        """Matching descriptors: their positions in the query and in the index.

        Only descriptors that share one of their 16 chunks of 16 bits are compared. Of two that
        differ in 26 bits, as half of the true matches do, 97 in 100 share one.
        """
        keys = np.ascontiguousarray(descriptors).view(np.uint16)
        queries, holdouts = [], []
        for chunk in range(CHUNKS):
            starts = np.searchsorted(self._keys[chunk], keys[:, chunk], side="left")
            stops = np.searchsorted(self._keys[chunk], keys[:, chunk], side="right")
            counts = np.where(stops - starts <= self._bucket_limit, stops - starts, 0)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            queries.append(np.repeat(np.arange(len(keys)), counts))
            holdouts.append(self._orders[chunk][np.repeat(starts, counts) + within])
        query, holdout = np.concatenate(queries), np.concatenate(holdouts)
        query_bits, holdout_bits = (
            descriptors.view(np.uint64)[query],
            self._descriptors.view(np.uint64)[holdout],
        )
        close = np.bitwise_count(query_bits ^ holdout_bits).sum(axis=1) <= MAX_BITS
        return query[close], holdout[close]


def _min_votes(fingerprint: Fingerprint) -> int:
    """How many matches must agree: with more keypoints more agree by chance."""
    return max(MIN_VOTES, len(fingerprint.descriptors) // KEYPOINTS_PER_VOTE)


def near_hashes(phash: int, hashes: Hashes) -> list[int]:
    """Positions of the hashes that differ from `phash` in few bits, nearest first."""
    distances = np.bitwise_count(hashes ^ np.uint64(phash))
    positions = np.flatnonzero(distances <= NEAR_BITS)
    return positions[np.argsort(distances[positions], kind="stable")].tolist()
