"""Real-ESRGAN's second-order degradation (Wang et al. 2021, "Real-ESRGAN", section 3).

Two rounds of blur, resize, noise and JPEG, as for a picture that was shared repeatedly. Ranges and
probabilities are those that the authors trained their x4 network with.
"""

from dataclasses import dataclass
from math import pi

import numpy as np

from superres.degrade.blur import Blur
from superres.degrade.degradation import of_steps
from superres.degrade.jpeg import Jpeg
from superres.degrade.kernels import Gaussian, Generalized, Kernel, Plateau, Sinc
from superres.degrade.noise import GaussianNoise, PoissonNoise, draw_seed
from superres.degrade.resample import Resize, draw_mode
from superres.degrade.steps import Step

KERNEL_SIZES = (7, 21)
KERNELS = {
    "gaussian_iso": 0.45,
    "gaussian_aniso": 0.25,
    "generalized_iso": 0.12,
    "generalized_aniso": 0.03,
    "plateau_iso": 0.12,
    "plateau_aniso": 0.03,
}
SINC_SHARE = 0.1
FINAL_SINC_SHARE = 0.8
SECOND_BLUR_SHARE = 0.8
GENERALIZED_SHAPES = (0.5, 4.0)
PLATEAU_SHAPES = (1.0, 2.0)
GAUSSIAN_NOISE_SHARE = 0.5
GREY_SHARE = 0.4
QUALITIES = (30, 95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The parameter ranges of one of the two rounds; a factor below 1 shrinks."""

    sigmas: tuple[float, float]
    up_down_keep: tuple[float, float, float]
    factors: tuple[float, float]
    noise_levels: tuple[float, float]
    poisson_strengths: tuple[float, float]


FIRST = Round(
    sigmas=(0.2, 3.0),
    up_down_keep=(0.2, 0.7, 0.1),
    factors=(0.15, 1.5),
    noise_levels=(1, 30),
    poisson_strengths=(0.05, 3),
)
SECOND = Round(
    sigmas=(0.2, 1.5),
    up_down_keep=(0.3, 0.4, 0.3),
    factors=(0.3, 1.2),
    noise_levels=(1, 25),
    poisson_strengths=(0.05, 2.5),
)


def draw(
    size: tuple[int, int], scale: int, own: np.random.Generator, shared: np.random.Generator
) -> list[Step]:
    """Draw the steps for a picture of `size` (height, width); see `of_steps`."""
    target = (size[0] // scale, size[1] // scale)
    steps: list[Step] = [Blur(kernel=draw_kernel(own, FIRST.sigmas))]
    steps += [_resize(size, FIRST, shared), _noise(FIRST, own, shared), _jpeg(own)]
    if shared.random() < SECOND_BLUR_SHARE:
        steps.append(Blur(kernel=draw_kernel(own, SECOND.sigmas)))
    steps += [_resize(target, SECOND, shared), _noise(SECOND, own, shared)]
    # The final sinc filter imitates sharpening, before or after the last compression.
    final_resize = [
        Resize(height=target[0], width=target[1], mode=draw_mode(shared)),
        Blur(kernel=_final_sinc(own)),
    ]
    last = _jpeg(own)
    return [*steps, *final_resize, last] if shared.random() < 0.5 else [*steps, last, *final_resize]


def draw_kernel(rng: np.random.Generator, sigmas: tuple[float, float]) -> Kernel:
    """Draw one of the seven kernels with the probabilities of KERNELS and SINC_SHARE."""
    size = _kernel_size(rng)
    if rng.random() < SINC_SHARE:
        least = pi / 3 if size < 13 else pi / 5
        return Sinc(size=size, cutoff=float(rng.uniform(least, pi)))
    name = list(KERNELS)[int(rng.choice(len(KERNELS), p=list(KERNELS.values())))]
    family, _, form = name.partition("_")
    sigma_x, sigma_y = (float(sigma) for sigma in rng.uniform(*sigmas, size=2))
    rotation = float(rng.uniform(-pi, pi))
    if form == "iso":
        sigma_y, rotation = sigma_x, 0.0
    if family == "gaussian":
        return Gaussian(size=size, sigma_x=sigma_x, sigma_y=sigma_y, rotation=rotation)
    kernel, shapes = {
        "generalized": (Generalized, GENERALIZED_SHAPES),
        "plateau": (Plateau, PLATEAU_SHAPES),
    }[family]
    return kernel(
        size=size, sigma_x=sigma_x, sigma_y=sigma_y, rotation=rotation, shape=_shape(rng, shapes)
    )


def _shape(rng: np.random.Generator, shapes: tuple[float, float]) -> float:
    """Draw a shape, below and above 1 with equal probability."""
    sides = (shapes[0], 1.0), (1.0, shapes[1])
    return float(rng.uniform(*sides[int(rng.random() < 0.5)]))


def _kernel_size(rng: np.random.Generator) -> int:
    return 2 * int(rng.integers(KERNEL_SIZES[0] // 2, KERNEL_SIZES[1] // 2, endpoint=True)) + 1


def _final_sinc(rng: np.random.Generator) -> Kernel:
    size, cutoff = _kernel_size(rng), float(rng.uniform(pi / 3, pi))
    return Sinc(size=size, cutoff=cutoff if rng.random() < FINAL_SINC_SHARE else 0.0)


def _resize(size: tuple[int, int], ranges: Round, rng: np.random.Generator) -> Resize:
    direction = int(rng.choice(3, p=ranges.up_down_keep))
    factor = (rng.uniform(1, ranges.factors[1]), rng.uniform(ranges.factors[0], 1), 1.0)[direction]
    height, width = (max(1, round(side * factor)) for side in size)
    return Resize(height=height, width=width, mode=draw_mode(rng))


def _noise(
    ranges: Round, own: np.random.Generator, shared: np.random.Generator
) -> GaussianNoise | PoissonNoise:
    grey, seed = bool(own.random() < GREY_SHARE), draw_seed(own)
    if shared.random() < GAUSSIAN_NOISE_SHARE:
        level = float(own.uniform(*ranges.noise_levels))
        return GaussianNoise(sigma_levels=level, grey=grey, seed=seed)
    strength = float(own.uniform(*ranges.poisson_strengths))
    return PoissonNoise(strength=strength, grey=grey, seed=seed)


def _jpeg(rng: np.random.Generator) -> Jpeg:
    return Jpeg(quality=int(rng.integers(*QUALITIES, endpoint=True)))


DEGRADATION = of_steps("real_esrgan", draw, damages={"compressed", "noisy", "blurred"})
