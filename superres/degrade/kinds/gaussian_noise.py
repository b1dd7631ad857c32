"""`gaussian_noise`: additive noise as in denoising benchmarks."""

import numpy as np

from superres.degrade.degradation import after_downscaling
from superres.degrade.noise import GaussianNoise, draw_seed
from superres.degrade.steps import Step


def draw(rng: np.random.Generator) -> list[Step]:
    """Draw noise of 1 to 50 levels; one in five is grey."""
    return [
        GaussianNoise(
            sigma_levels=float(rng.uniform(1, 50)),
            grey=bool(rng.random() < 0.2),
            seed=draw_seed(rng),
        )
    ]


DEGRADATION = after_downscaling("gaussian_noise", draw, damages={"noisy"})
