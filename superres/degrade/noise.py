"""Gaussian, Poisson and camera noise, on a CPU or a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from superres.degrade.arrays import Array, as_array_like, namespace, normals, per_sample, uniforms

LUMA = (0.299, 0.587, 0.114)

# Below this mean Poisson counts are exact, above it a quantile expansion approximates them.
FEW_COUNTS = 4.0
MAX_FEW_COUNT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianNoise:
    """Additive Gaussian noise, sigma in 8-bit levels; `grey` noise is equal in all channels.

    `mixing` is a 3x3 matrix that makes independent channels correlated, or None.
    """

    sigma_levels: float
    grey: bool
    seed: int
    mixing: tuple[tuple[float, float, float], ...] | None = None

    @staticmethod
    def run(batch_bchw: Array, steps: "Sequence[GaussianNoise]") -> Array:
        xp = namespace(batch_bchw)
        field = _normal_field(batch_bchw, [step.seed for step in steps])
        field = _grey_where([step.grey for step in steps], field[:, :1], field)
        mixing = np.array([np.eye(3) if step.mixing is None else step.mixing for step in steps])
        if any(step.mixing is not None for step in steps):
            field = xp.einsum("bij,bjhw->bihw", as_array_like(mixing, field), field)
        sigma = per_sample([step.sigma_levels / 255 for step in steps], batch_bchw)
        return xp.clip(batch_bchw + sigma * field, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonNoise:
    """Poisson (shot) noise, times `strength`.

    As in basicsr, white is as many counts as the picture has distinct values, rounded up to a power
    of two. `grey` noise is that of the luma, equal in all channels.
    """

    strength: float
    grey: bool
    seed: int

    @staticmethod
    def run(batch_bchw: Array, steps: "Sequence[PoissonNoise]") -> Array:
        xp = namespace(batch_bchw)
        clean = xp.floor(xp.clip(batch_bchw, 0, 1) * 255 + 0.5) / 255
        luma = xp.einsum("c,bchw->bhw", as_array_like(LUMA, clean), clean)[:, None]
        luma = xp.floor(luma * 255 + 0.5) / 255
        grey = [step.grey for step in steps]
        source = _grey_where(grey, luma, clean)
        white = per_sample([0.0] * len(steps), clean) + _white_counts(source)
        seeds = [step.seed for step in steps]
        counted = poisson_counts(
            source * white, _normal_field(clean, seeds), _uniform_field(clean, seeds)
        )
        noise = counted / white - source
        noise = _grey_where(grey, noise[:, :1], noise)
        strength = per_sample([step.strength for step in steps], clean)
        return xp.clip(batch_bchw + strength * noise, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraNoise:
    """A sensor's shot and read noise, added in linear light (Brooks et al. 2019, section 3.1).

    Both are variances: the total is `shot` times the light, plus `read`.
    """

    shot: float
    read: float
    seed: int

    @staticmethod
    def run(batch_bchw: Array, steps: "Sequence[CameraNoise]") -> Array:
        xp = namespace(batch_bchw)
        light = linear(xp.clip(batch_bchw, 0, 1))
        shot = per_sample([step.shot for step in steps], light)
        read = per_sample([step.read for step in steps], light)
        field = _normal_field(light, [step.seed for step in steps])
        return encoded(xp.clip(light + xp.sqrt(light * shot + read) * field, 0, 1))


def draw_seed(rng: np.random.Generator) -> int:
    """Draw the seed of a noise field."""
    return int(rng.integers(2**31))


def poisson_counts(mean: Array, normal: Array, uniform: Array) -> Array:
    """Poisson counts with these means: exact below FEW_COUNTS, else a Cornish-Fisher expansion.

    The expansion is not rounded: its mean and variance are right, and rounding could differ between
    devices.
    """
    xp = namespace(mean)
    root = xp.sqrt(xp.clip(mean, FEW_COUNTS, None))
    squared = normal * normal
    many = mean + root * normal + (squared - 1) / 6 + normal * (1 - squared) / (72 * root)
    counts = xp.clip(many, 0, None)
    few = mean < FEW_COUNTS
    counts[few] = _few_counts(mean[few], uniform[few])
    return counts


def _few_counts(mean: Array, uniform: Array) -> Array:
    """Poisson counts by inversion of the cumulative distribution at `uniform`."""
    xp = namespace(mean)
    probability = xp.exp(-mean)
    cumulated, counts = probability, xp.zeros_like(mean)
    for count in range(1, MAX_FEW_COUNT):
        counts = counts + xp.asarray(uniform > cumulated, dtype=mean.dtype)
        probability = probability * mean / count
        cumulated = cumulated + probability
    return counts


def linear(encoded_values: Array) -> Array:
    """Linear light of sRGB values."""
    xp = namespace(encoded_values)
    return xp.where(
        encoded_values <= 0.04045, encoded_values / 12.92, ((encoded_values + 0.055) / 1.055) ** 2.4
    )


def encoded(light: Array) -> Array:
    """sRGB values of linear light."""
    xp = namespace(light)
    return xp.where(
        light <= 0.0031308,
        light * 12.92,
        1.055 * xp.clip(light, 0.0031308, None) ** (1 / 2.4) - 0.055,
    )


def _normal_field(batch_bchw: Array, seeds: Sequence[int]) -> Array:
    return normals(tuple(batch_bchw.shape[1:]), seeds, batch_bchw)


def _uniform_field(batch_bchw: Array, seeds: Sequence[int]) -> Array:
    """Uniform fields, independent of the normal fields of the same seeds."""
    return uniforms(tuple(batch_bchw.shape[1:]), [seed + 2**32 for seed in seeds], batch_bchw)[0]


def _grey_where(grey: Sequence[bool], grey_b1hw: Array, colour_bchw: Array) -> Array:
    xp = namespace(colour_bchw)
    return xp.where(
        per_sample([float(value) for value in grey], colour_bchw) > 0.5, grey_b1hw, colour_bchw
    )


def _white_counts(clean_bchw: Array) -> Array:
    """Per picture the number of distinct 8-bit values, rounded up to a power of two."""
    xp = namespace(clean_bchw)
    pictures = clean_bchw.shape[0]
    levels = xp.asarray(xp.floor(clean_bchw * 255 + 0.5), dtype=xp.int64).reshape(pictures, -1)
    offsets = xp.arange(pictures, device=clean_bchw.device).reshape(-1, 1) * 256
    counts = xp.bincount((levels + offsets).reshape(-1), minlength=256 * pictures)
    distinct = xp.asarray((counts.reshape(pictures, 256) > 0).sum(-1), dtype=clean_bchw.dtype)
    return (2 ** xp.ceil(xp.log2(distinct))).reshape(-1, 1, 1, 1)
