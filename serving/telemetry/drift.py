"""Drift of live pictures from a model's training data, and consistency of answers with inputs.

Only numbers are kept, never a picture: a few features of each input, one value of each answer.
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
from superres.model.bundle import FeatureStats
from superres.quality import psnr_of_mse

Array = NDArray[Any]

BLOCK_SIDE = 48  # LR pixels
BLOCKS_PER_SIDE = 3
BLOCK_EDGE = 4  # LR pixels that a block's cut edge distorts when the block is downscaled alone
MAX_DB = 100.0  # the value for identical pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The measurements of one answered picture."""

    features: Mapping[str, float]
    consistency_db: float


class LiveWindow:
    """The latest observations of each model, up to a maximum age.

    Used on the event loop only, so it needs no lock.
    """

    def __init__(
        self, settings: DriftSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._observations: dict[str, deque[tuple[float, Observation]]] = {}

    def add(self, model: str, observation: Observation) -> None:
        """Add the observation of one answered picture."""
        latest = self._observations.setdefault(model, deque(maxlen=self._settings.window))
        latest.append((self._clock(), observation))

    def pictures(self) -> dict[str, int]:
        """The number of observations of each model."""
        return {model: len(observations) for model, observations in self._recent()}

    def drift(
        self, references: Mapping[str, Mapping[str, FeatureStats]]
    ) -> dict[tuple[str, str], float]:
        """By (feature, model): |live mean - reference mean| / reference deviation.

        Models with too few pictures or without a reference are left out.
        """
        distances: dict[tuple[str, str], float] = {}
        for model, observations in self._recent():
            if len(observations) < self._settings.minimum:
                continue
            for feature, reference in references.get(model, {}).items():
                live = [
                    observation.features[feature]
                    for observation in observations
                    if feature in observation.features
                ]
                if live:
                    distances[feature, model] = distance(fmean(live), reference)
        return distances

    def consistency(self) -> dict[str, float]:
        """Mean consistency of each model's answers in dB."""
        return {
            model: fmean(observation.consistency_db for observation in observations)
            for model, observations in self._recent()
        }

    def _recent(self) -> Iterator[tuple[str, list[Observation]]]:
        oldest_seconds = self._clock() - self._settings.max_age_seconds
        for model, latest in self._observations.items():
            while latest and latest[0][0] < oldest_seconds:
                latest.popleft()
            if latest:
                yield model, [observation for _, observation in latest]


def distance(live_mean: float, reference: FeatureStats) -> float:
    """Difference of the means in standard deviations of the reference."""
    # Floor: a feature that was constant in training would make any difference infinite.
    deviation = max(reference.std, 0.01 * abs(reference.mean), 1e-3)
    return abs(live_mean - reference.mean) / deviation


class ConsistencySample:
    """The consistency of an answer in dB, measured on blocks that are copied from its strips.

    Large pictures are sampled by 3 x 3 blocks spread evenly over them.
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
        """Copy the blocks' part of the enlarged rows that start at row `top` of the input."""
        first, last = top * self._scale, top * self._scale + len(strip_hwc)
        for rows, blocks in zip(self._rows, self._blocks, strict=True):
            span = _scaled(rows, self._scale)
            begin, end = max(first, span.start), min(last, span.stop)
            if begin >= end:
                continue
            into = slice(begin - span.start, end - span.start)
            for columns, block in zip(self._columns, blocks, strict=True):
                block[into] = strip_hwc[begin - first : end - first, columns]

    def db(self) -> float:
        """PSNR of the answer, downscaled to its input's size, against that input."""
        lr = self._lr
        top_value = float(np.iinfo(lr.rgb_hwc.dtype).max)
        errors = []
        for rows, blocks in zip(self._rows, self._blocks, strict=True):
            for columns, large in zip(_spans(lr.width), blocks, strict=True):
                block = lr.rgb_hwc[rows, columns].astype(np.float64)
                small = imresize(large, size=block.shape[:2]).astype(np.float64)
                error = (small - block)[_inner(rows, lr.height), _inner(columns, lr.width)]
                errors.append(float(np.mean((error * (255.0 / top_value)) ** 2)))
        return min(MAX_DB, psnr_of_mse(fmean(errors)))


def consistency_db(lr: Picture, answer: Picture) -> float:
    """`ConsistencySample.db` of a whole answer."""
    sample = ConsistencySample(lr, answer.height // lr.height)
    sample.add(0, answer.rgb_hwc)
    return sample.db()


def _spans(side: int) -> list[slice]:
    """The blocks' positions along one side; the whole side if they would overlap."""
    if side <= BLOCKS_PER_SIDE * BLOCK_SIDE:
        return [slice(0, side)]
    starts = np.linspace(0, side - BLOCK_SIDE, BLOCKS_PER_SIDE).astype(int)
    return [slice(int(start), int(start) + BLOCK_SIDE) for start in starts]


def _scaled(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)


def _length(span: slice) -> int:
    return span.stop - span.start


def _inner(span: slice, side: int) -> slice:
    """The part of a block that its cut edges do not distort; picture borders are not cut edges."""
    length = _length(span)
    return slice(
        BLOCK_EDGE if span.start > 0 else 0, length - BLOCK_EDGE if span.stop < side else length
    )
