"""How far a mean may be from what other pictures of the kind would give: bootstrap intervals.

Percentile intervals (Efron and Tibshirani 1993, chapter 13) from a seeded generator, so that the
same figures give the same interval. Gains are resampled as pairs: what makes a picture hard for
both sides cancels out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 20260101
# Squared 8-bit levels. Two pictures that equal their reference differ by 0 dB, not by inf - inf.
MIN_ERROR = 1e-6


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the figure lies with CONFIDENCE."""

    lower: float
    upper: float


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Of the mean over pictures; None where one picture, or an infinite figure, gives none."""
    figures = np.asarray(values, np.float64)
    if len(figures) < 2 or not np.isfinite(figures).all():
        return None
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(len(figures), size=(RESAMPLES, len(figures)))
    return percentiles(figures[drawn].mean(axis=1))


def psnr_interval(errors: Floats, counts: Floats) -> Interval | None:
    """Of one picture's PSNR in dB, over its blocks; None where there is one block.

    `errors` are sums of squared errors on the 0 to 255 range, `counts` of values: (blocks,) each.
    """
    perfect = 255.0**2 * counts  # against an error of full scale, the gain is the PSNR itself
    return gain_interval(errors, perfect, counts)


def gain_interval(ours: Floats, theirs: Floats, counts: Floats) -> Interval | None:
    """Of one picture's PSNR gain in dB, over its blocks; None where there is one block."""
    if len(counts) < 2:
        return None
    generator = np.random.default_rng(SEED)
    return percentiles(resampled_gains(ours, theirs, counts, RESAMPLES, generator))


def resampled_gains(
    ours: Floats, theirs: Floats, counts: Floats, draws: int, generator: np.random.Generator
) -> Floats:
    """A picture's PSNR gain recomputed from `draws` resamples of its blocks: (draws,)."""
    blocks = counts.size
    # How often each block is drawn is all that matters, and a multinomial gives just that.
    weights = generator.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=draws)
    return gain_db(weights @ ours, weights @ theirs, weights @ counts)


def gain_db(ours: Floats, theirs: Floats, counts: Floats) -> Floats:
    """PSNR gain in dB of sums of squared errors over numbers of values."""
    ours_mse = np.maximum(ours / counts, MIN_ERROR)
    theirs_mse = np.maximum(theirs / counts, MIN_ERROR)
    return 10.0 * np.log10(theirs_mse / ours_mse)


def percentiles(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """The middle share of resampled figures."""
    tail = (1.0 - confidence) / 2.0
    lower, upper = np.quantile(values, [tail, 1.0 - tail])
    return Interval(float(lower), float(upper))
