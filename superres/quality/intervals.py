"""Bootstrap confidence intervals of means and of PSNR gains.

Percentile intervals (Efron and Tibshirani 1993, chapter 13) from a seeded generator, so that the
same values give the same interval. Gains are resampled as pairs, so the difficulty of a picture
cancels out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 20260101
# In squared 8-bit levels: two outputs that equal the ground truth differ by 0 dB, not inf - inf.
MIN_ERROR = 1e-6


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval at CONFIDENCE."""

    lower: float
    upper: float


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Of the mean over pictures; None for a single picture or a non-finite value."""
    array = np.asarray(values, np.float64)
    if len(array) < 2 or not np.isfinite(array).all():
        return None
    generator = np.random.default_rng(SEED)
    resamples = generator.integers(len(array), size=(RESAMPLES, len(array)))
    return percentiles(array[resamples].mean(axis=1))


def psnr_interval(errors: Floats, counts: Floats) -> Interval | None:
    """Of one picture's PSNR in dB, over its blocks; None for a single block.

    `errors` are sums of squared errors on the 0 to 255 range, `counts` of values: (blocks,) each.
    """
    full_scale = 255.0**2 * counts  # against a full-scale error the gain is the PSNR itself
    return gain_interval(errors, full_scale, counts)


def gain_interval(ours: Floats, theirs: Floats, counts: Floats) -> Interval | None:
    """Of one picture's PSNR gain in dB, over its blocks; None for a single block."""
    if len(counts) < 2:
        return None
    generator = np.random.default_rng(SEED)
    return percentiles(resampled_gains(ours, theirs, counts, RESAMPLES, generator))


def resampled_gains(
    ours: Floats, theirs: Floats, counts: Floats, draws: int, generator: np.random.Generator
) -> Floats:
    """A picture's PSNR gain recomputed from `draws` resamples of its blocks: (draws,)."""
    blocks = counts.size
    # Only the number of draws of each block matters: a multinomial distribution.
    weights = generator.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=draws)
    return gain_db(weights @ ours, weights @ theirs, weights @ counts)


def gain_db(ours: Floats, theirs: Floats, counts: Floats) -> Floats:
    """PSNR gain in dB from sums of squared errors and numbers of values."""
    ours_mse = np.maximum(ours / counts, MIN_ERROR)
    theirs_mse = np.maximum(theirs / counts, MIN_ERROR)
    return 10.0 * np.log10(theirs_mse / ours_mse)


def percentiles(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """The percentile interval of resampled values."""
    tail = (1.0 - confidence) / 2.0
    lower, upper = np.quantile(values, [tail, 1.0 - tail])
    return Interval(float(lower), float(upper))
