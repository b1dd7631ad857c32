"""BSRGAN's shuffled degradation (Zhang et al. 2021, "Designing a Practical Degradation Model").

Two blurs, two downscalings, Gaussian, JPEG and camera noise in a random order per picture, and a
final JPEG. The camera noise here is sensor noise in linear light; the paper also inverts and
reapplies white balance and demosaicking.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import numpy as np

from superres.degrade.blur import Blur
from superres.degrade.degradation import of_steps
from superres.degrade.jpeg import Jpeg
from superres.degrade.kernels import Gaussian
from superres.degrade.kinds import iso_noise
from superres.degrade.noise import GaussianNoise, draw_seed
from superres.degrade.resample import Resize, draw_mode
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
class _DrawContext:
    """The inputs of the parts; `size` (height, width) is the picture's before the steps."""

    size: tuple[int, int]
    target: tuple[int, int]
    scale: int
    own: np.random.Generator
    shared: np.random.Generator


def draw(
    size: tuple[int, int], scale: int, own: np.random.Generator, shared: np.random.Generator
) -> list[Step]:
    """Draw the steps for a picture of `size` (height, width); see `of_steps`."""
    target = (size[0] // scale, size[1] // scale)
    steps: list[Step] = []
    if scale == 4 and shared.random() < HALVE_FIRST_SHARE:
        size, scale = (size[0] // 2, size[1] // 2), 2
        steps.append(Resize(height=size[0], width=size[1], mode=draw_mode(shared)))
    context = _DrawContext(size=size, target=target, scale=scale, own=own, shared=shared)
    order = [int(part) for part in shared.permutation(len(_PARTS))]
    shrink, resize_to_target = _PARTS.index(_shrink), _PARTS.index(_resize_to_target)
    first, second = sorted((order.index(shrink), order.index(resize_to_target)))
    order[first], order[second] = shrink, resize_to_target
    for part in order:
        steps += _PARTS[part](context)
    return [*steps, _compression(context)]


def _blur(context: _DrawContext) -> list[Step]:
    own = context.own
    size = 2 * int(own.integers(2, 11, endpoint=True)) + 3
    if own.random() < ANISOTROPIC_SHARE:
        # The paper draws the eigenvalues of the covariance, i.e. variances.
        variances = np.maximum(own.uniform(0, 4 + context.scale, size=2), MIN_VARIANCE)
        sigma_x, sigma_y = (float(sigma) for sigma in np.sqrt(variances))
        rotation = float(own.uniform(0, pi))
    else:
        sigma_x = sigma_y = max(float(own.uniform(0, 2 + 0.2 * context.scale)), MIN_VARIANCE**0.5)
        rotation = 0.0
    return [Blur(kernel=Gaussian(size=size, sigma_x=sigma_x, sigma_y=sigma_y, rotation=rotation))]


def _shrink(context: _DrawContext) -> list[Step]:
    """Resize by a random factor with a random resampler, or blur and decimate."""
    shared, scale = context.shared, context.scale
    if shared.random() < RESIZE_SHARE:
        factor = shared.uniform(1, 2 * scale)
        height, width = (max(1, int(side / factor)) for side in context.size)
        return [Resize(height=height, width=width, mode=draw_mode(shared))]
    sigma = float(context.own.uniform(0.1, 0.6 * scale))
    # Decimation by an even factor takes the sample after the centre: the kernel's shift corrects.
    kernel = Gaussian(size=25, sigma_x=sigma, sigma_y=sigma, shift=0.0 if scale % 2 else 0.5)
    height, width = (side // scale for side in context.size)
    return [Blur(kernel=kernel), Resize(height=height, width=width, mode="nearest")]


def _resize_to_target(context: _DrawContext) -> list[Step]:
    return [
        Resize(height=context.target[0], width=context.target[1], mode=draw_mode(context.shared))
    ]


def _film_noise(context: _DrawContext) -> list[Step]:
    """Gaussian noise: per channel, grey or correlated between channels, at 4 : 4 : 2."""
    own = context.own
    sigma, seed = float(own.integers(*NOISE_LEVELS, endpoint=True)), draw_seed(own)
    kind = own.random()
    if 0.4 <= kind <= 0.6:
        return [GaussianNoise(sigma_levels=sigma, grey=False, seed=seed, mixing=_mixing(own))]
    return [GaussianNoise(sigma_levels=sigma, grey=bool(kind < 0.4), seed=seed)]


def _mixing(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    """A square root of the paper's random covariance between channels."""
    directions, _ = np.linalg.qr(rng.uniform(size=(3, 3)))
    mixing = directions * np.sqrt(rng.uniform(size=3))
    return tuple((float(row[0]), float(row[1]), float(row[2])) for row in mixing)


def _jpeg_noise(context: _DrawContext) -> list[Step]:
    return [_compression(context)] if context.shared.random() < JPEG_SHARE else []


def _camera_noise(context: _DrawContext) -> list[Step]:
    return iso_noise.draw(context.own) if context.shared.random() < CAMERA_SHARE else []


def _compression(context: _DrawContext) -> Jpeg:
    return Jpeg(quality=int(context.own.integers(*QUALITIES, endpoint=True)))


_PARTS: tuple[Callable[[_DrawContext], list[Step]], ...] = (
    _blur,
    _blur,
    _shrink,
    _resize_to_target,
    _film_noise,
    _jpeg_noise,
    _camera_noise,
)


DEGRADATION = of_steps("bsrgan", draw, damages={"compressed", "noisy", "blurred"})
