"""What live pictures look like against what a model was trained on, and whether answers fit them.

Only numbers are kept, never a picture: a few measurements of each input, one of each answer.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.setting_groups import DriftSettings
from superres.image.codecs import Picture
from superres.image.resize import imresize
from superres.model.bundle import Spread
from superres.quality import psnr_of_mse

Array = NDArray[Any]

BLOCK_SIDE = 48  # LR pixels
BLOCKS_A_SIDE = 3
BLOCK_EDGE = 4  # LR pixels that a block's cut edge distorts when it is shrunk alone
HIGHEST_DB = 100.0  # what equal pictures count as


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What is remembered of one answered picture."""

    features: Mapping[str, float]
    consistency_db: float


class LiveWindow:
    """The latest observations of each model, of at most a given age.

    Written and read on the event loop, so nothing needs a lock.
    """

    def __init__(
        self, settings: DriftSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._seen: dict[str, deque[tuple[float, Observation]]] = {}

    def add(self, model: str, observation: Observation) -> None:
        """Remember one answered picture of a model."""
        seen = self._seen.setdefault(model, deque(maxlen=self._settings.window))
        seen.append((self._clock(), observation))

    def pictures(self) -> dict[str, int]:
        """How many pictures each model's figures speak of."""
        return {model: len(observations) for model, observations in self._recent()}

    def drift(self, references: Mapping[str, Mapping[str, Spread]]) -> dict[tuple[str, str], float]:
        """By (feature, model): |live mean - reference mean| / reference deviation.

        A model with fewer than the minimum of pictures, or without a reference, is left out.
        """
        figures: dict[tuple[str, str], float] = {}
        for model, observations in self._recent():
            if len(observations) < self._settings.minimum:
                continue
            for feature, spread in references.get(model, {}).items():
                live = [seen.features[feature] for seen in observations if feature in seen.features]
                if live:
                    figures[feature, model] = distance(fmean(live), spread)
        return figures

    def consistency(self) -> dict[str, float]:
        """Mean consistency of each model's answers in dB."""
        return {
            model: fmean(seen.consistency_db for seen in observations)
            for model, observations in self._recent()
        }

    def _recent(self) -> Iterator[tuple[str, list[Observation]]]:
        oldest_seconds = self._clock() - self._settings.max_age_seconds
        for model, seen in self._seen.items():
            while seen and seen[0][0] < oldest_seconds:
                seen.popleft()
            if seen:
                yield model, [observation for _, observation in seen]


def distance(live_mean: float, reference: Spread) -> float:
    """How many reference deviations the live mean is away from the reference's."""
    # Training pictures that were all alike in something would turn any difference into infinity.
    deviation = max(reference.std, 0.01 * abs(reference.mean), 1e-3)
    return abs(live_mean - reference.mean) / deviation


class ConsistencySample:
    """Blocks of an answer, taken from its stripes as they pass, and what they say of it.

    Pictures larger than the blocks are judged by blocks spread evenly over them.
    """

    def __init__(self, lr: Picture, scale: int) -> None:
        self._lr = lr
        self._scale = scale
        self._rows = _spans(lr.height)
        self._columns = [_scaled(columns, scale) for columns in _spans(lr.width)]
        self._blocks = [
            [
                np.zeros((_length(rows) * scale, _length(columns), 3), lr.rgb_hwc.dtype)
                for columns in self._columns
            ]
            for rows in self._rows
        ]

    def add(self, top: int, strip_hwc: Array) -> None:
        """Take what is needed of the enlarged rows that start at row `top` of the input."""
        first, last = top * self._scale, top * self._scale + len(strip_hwc)
        for rows, blocks in zip(self._rows, self._blocks, strict=True):
            wanted = _scaled(rows, self._scale)
            begin, end = max(first, wanted.start), min(last, wanted.stop)
            if begin >= end:
                continue
            into = slice(begin - wanted.start, end - wanted.start)
            for columns, block in zip(self._columns, blocks, strict=True):
                block[into] = strip_hwc[begin - first : end - first, columns]

    def db(self) -> float:
        """PSNR of the answer, shrunk to its input's size, against that input."""
        lr = self._lr
        top_value = float(np.iinfo(lr.rgb_hwc.dtype).max)
        squared = []
        for rows, blocks in zip(self._rows, self._blocks, strict=True):
            for columns, large in zip(_spans(lr.width), blocks, strict=True):
                block = lr.rgb_hwc[rows, columns].astype(np.float64)
                small = imresize(large, size=block.shape[:2]).astype(np.float64)
                error = (small - block)[_inner(rows, lr.height), _inner(columns, lr.width)]
                squared.append(float(np.mean((error * (255.0 / top_value)) ** 2)))
        return min(HIGHEST_DB, psnr_of_mse(fmean(squared)))


def consistency_db(lr: Picture, answer: Picture) -> float:
    """What `ConsistencySample` says of a whole answer."""
    sample = ConsistencySample(lr, answer.height // lr.height)
    sample.add(0, answer.rgb_hwc)
    return sample.db()


def _spans(side: int) -> list[slice]:
    """Where along one side the blocks lie; the whole side where they would overlap."""
    if side <= BLOCKS_A_SIDE * BLOCK_SIDE:
        return [slice(0, side)]
    starts = np.linspace(0, side - BLOCK_SIDE, BLOCKS_A_SIDE).astype(int)
    return [slice(int(start), int(start) + BLOCK_SIDE) for start in starts]


def _scaled(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)


def _length(span: slice) -> int:
    return span.stop - span.start


def _inner(span: slice, side: int) -> slice:
    """The part of a block that its cut edges leave alone; the picture's own edges are no cut."""
    length = _length(span)
    return slice(
        BLOCK_EDGE if span.start > 0 else 0, length - BLOCK_EDGE if span.stop < side else length
    )
