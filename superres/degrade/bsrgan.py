"""BSRGAN's shuffled degradation (Zhang et al. 2021, "Designing a Practical Degradation Model").

Two blurs, two shrinkings, and the noise of film, of JPEG and of a camera, in an order drawn for
each picture, and JPEG at last. The camera here is a sensor behind sRGB's tone curve, where the
paper also undoes and redoes a camera's white balance and demosaicking.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi

import numpy as np

from superres.degrade.blur import Blur
from superres.degrade.jpeg import Jpeg
from superres.degrade.kernels import Gaussian
from superres.degrade.noise import GaussianNoise, draw_seed, iso
from superres.degrade.resample import MODES, Mode, Resize
from superres.degrade.steps import Step

HALVE_FIRST_SHARE = 0.25
RESIZE_SHARE = 0.75
JPEG_SHARE = 0.9
CAMERA_SHARE = 0.25
ANISOTROPIC_SHARE = 0.5
NOISE_LEVELS = (2, 25)
QUALITIES = (30, 95)
MIN_VARIANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draw:
    """What the parts draw from: `size` (height, width) is the picture's at the outset."""

    size: tuple[int, int]
    goal: tuple[int, int]
    scale: int
    own: np.random.Generator
    shared: np.random.Generator


def draw(
    size: tuple[int, int], scale: int, own: np.random.Generator, shared: np.random.Generator
) -> list[Step]:
    """The steps of a picture of `size` (height, width); `own` and `shared` as in real_esrgan."""
    goal = (size[0] // scale, size[1] // scale)
    steps: list[Step] = []
    if scale == 4 and shared.random() < HALVE_FIRST_SHARE:
        size, scale = (size[0] // 2, size[1] // 2), 2
        steps.append(Resize(height=size[0], width=size[1], mode=_mode(shared)))
    draws = _Draw(size=size, goal=goal, scale=scale, own=own, shared=shared)
    order = [int(part) for part in shared.permutation(len(_PARTS))]
    shrink, settle = _PARTS.index(_shrink), _PARTS.index(_settle)
    first, second = sorted((order.index(shrink), order.index(settle)))
    order[first], order[second] = shrink, settle
    for part in order:
        steps += _PARTS[part](draws)
    return [*steps, _compression(draws)]


def draw_batch(
    size: tuple[int, int], scale: int, seeds: Sequence[int], shared_seed: int
) -> list[list[Step]]:
    """Rows of one form, one for each seed, for pictures of one size."""
    return [
        draw(size, scale, np.random.default_rng(seed), np.random.default_rng(shared_seed))
        for seed in seeds
    ]


def _blur(draws: _Draw) -> list[Step]:
    own = draws.own
    size = 2 * int(own.integers(2, 11, endpoint=True)) + 3
    if own.random() < ANISOTROPIC_SHARE:
        # The paper draws the eigenvalues of the covariance, so variances.
        variances = np.maximum(own.uniform(0, 4 + draws.scale, size=2), MIN_VARIANCE)
        sigma_x, sigma_y = (float(sigma) for sigma in np.sqrt(variances))
        rotation = float(own.uniform(0, pi))
    else:
        sigma_x = sigma_y = max(float(own.uniform(0, 2 + 0.2 * draws.scale)), MIN_VARIANCE**0.5)
        rotation = 0.0
    return [Blur(kernel=Gaussian(size=size, sigma_x=sigma_x, sigma_y=sigma_y, rotation=rotation))]


def _shrink(draws: _Draw) -> list[Step]:
    """By a free factor and any resampler, or by taking every n-th sample after a blur."""
    shared, scale = draws.shared, draws.scale
    if shared.random() < RESIZE_SHARE:
        factor = shared.uniform(1, 2 * scale)
        height, width = (max(1, int(side / factor)) for side in draws.size)
        return [Resize(height=height, width=width, mode=_mode(shared))]
    sigma = float(draws.own.uniform(0.1, 0.6 * scale))
    # Of an even number of samples the one after the middle is taken: the blur makes up for it.
    kernel = Gaussian(size=25, sigma_x=sigma, sigma_y=sigma, shift=0.0 if scale % 2 else 0.5)
    height, width = (side // scale for side in draws.size)
    return [Blur(kernel=kernel), Resize(height=height, width=width, mode="nearest")]


def _settle(draws: _Draw) -> list[Step]:
    return [Resize(height=draws.goal[0], width=draws.goal[1], mode=_mode(draws.shared))]


def _film_noise(draws: _Draw) -> list[Step]:
    """Independent, common or correlated in the channels, at 4 : 4 : 2."""
    own = draws.own
    sigma, seed = float(own.integers(*NOISE_LEVELS, endpoint=True)), draw_seed(own)
    kind = own.random()
    if 0.4 <= kind <= 0.6:
        return [GaussianNoise(sigma_levels=sigma, grey=False, seed=seed, mixing=_mixing(own))]
    return [GaussianNoise(sigma_levels=sigma, grey=bool(kind < 0.4), seed=seed)]


def _mixing(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    """A square root of the paper's random covariance of the channels."""
    directions, _ = np.linalg.qr(rng.uniform(size=(3, 3)))
    mixing = directions * np.sqrt(rng.uniform(size=3))
    return tuple((float(row[0]), float(row[1]), float(row[2])) for row in mixing)


def _jpeg_noise(draws: _Draw) -> list[Step]:
    return [_compression(draws)] if draws.shared.random() < JPEG_SHARE else []


def _camera_noise(draws: _Draw) -> list[Step]:
    return [*iso(draws.own)] if draws.shared.random() < CAMERA_SHARE else []


def _compression(draws: _Draw) -> Jpeg:
    return Jpeg(quality=int(draws.own.integers(*QUALITIES, endpoint=True)))


def _mode(rng: np.random.Generator) -> Mode:
    return MODES[int(rng.integers(len(MODES)))]


_PARTS: tuple[Callable[[_Draw], list[Step]], ...] = (
    _blur,
    _blur,
    _shrink,
    _settle,
    _film_noise,
    _jpeg_noise,
    _camera_noise,
)
