"""Confidence interval of a PSNR gain: a paired hierarchical bootstrap over pictures and blocks.

Pictures are resampled with replacement, then the blocks within each drawn picture (Davison and
Hinkley 1997, section 3.8). Both models use the same resamples, so a picture's difficulty cancels
out. Each resample recomputes the PSNR gain of each picture from the mean squared errors of its
drawn blocks; the statistic is the mean of those gains over the pictures.

Pixels within a picture are correlated, and pictures differ more than blocks do: an interval over
pixels would be far too narrow. With a handful of pictures even this one is an approximation, so
`paired_gain` requires a minimum number of pictures and blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from release.rules import Resampling
from superres.common.errors import SharplineError
from superres.quality.blocks import Floats
from superres.quality.intervals import gain_db, percentiles, resampled_gains


class TooFewPictures(SharplineError):
    """There are fewer pictures or blocks than the rules require for a decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedErrors:
    """Squared errors of two models on one picture, in squared 8-bit levels.

    `ours` and `theirs` are sums over each block, `values` counts the summed values; all three
    have the shape (blocks,) and the same block order.
    """

    name: str
    ours: Floats
    theirs: Floats
    values: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean PSNR gain over the pictures in dB, with its two-sided interval."""

    mean_db: float
    lower_db: float
    upper_db: float
    confidence: float
    pictures: int
    blocks: int


def paired_gain(pictures: Sequence[PairedErrors], resampling: Resampling) -> Gain:
    """The mean PSNR gain of `ours` over `theirs` with its percentile interval.

    Raises TooFewPictures below the minimum numbers of pictures and blocks.
    """
    blocks = sum(picture.values.size for picture in pictures)
    if len(pictures) < resampling.min_pictures or blocks < resampling.min_blocks:
        raise TooFewPictures(
            f"{len(pictures)} pictures with {blocks} blocks are too few to decide; the rules "
            f"require {resampling.min_pictures} pictures and {resampling.min_blocks} blocks: "
            "gate on more held-out pictures"
        )
    means = _resampled_means(pictures, resampling)
    interval = percentiles(means, resampling.confidence)
    mean = float(
        np.mean(
            [
                gain_db(picture.ours.sum(), picture.theirs.sum(), picture.values.sum())
                for picture in pictures
            ]
        )
    )
    return Gain(
        mean_db=mean,
        lower_db=interval.lower,
        upper_db=interval.upper,
        confidence=resampling.confidence,
        pictures=len(pictures),
        blocks=blocks,
    )


def _resampled_means(pictures: Sequence[PairedErrors], resampling: Resampling) -> Floats:
    """One mean gain per resample, shape (resamples,)."""
    generator = np.random.default_rng(resampling.seed)
    drawn = generator.integers(len(pictures), size=(resampling.resamples, len(pictures)))
    gains = np.empty(drawn.shape, dtype=np.float64)
    for index, picture in enumerate(pictures):
        slots = drawn == index
        gains[slots] = resampled_gains(
            picture.ours, picture.theirs, picture.values, int(slots.sum()), generator
        )
    return gains.mean(axis=1)
