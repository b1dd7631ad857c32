"""`poisson_noise`: photon noise."""

import numpy as np

from superres.degrade.degradation import after_downscaling
from superres.degrade.noise import PoissonNoise, draw_seed
from superres.degrade.steps import Step


def draw(rng: np.random.Generator) -> list[Step]:
    """Draw noise of bright to very dim scenes; one in five is grey."""
    return [
        PoissonNoise(
            strength=float(rng.uniform(0.3, 4)), grey=bool(rng.random() < 0.2), seed=draw_seed(rng)
        )
    ]


DEGRADATION = after_downscaling("poisson_noise", draw, damages={"noisy"})
