"""`iso_noise`: a camera sensor's noise in linear light."""

import numpy as np

from superres.degrade.degradation import after_downscaling
from superres.degrade.noise import CameraNoise, draw_seed
from superres.degrade.steps import Step


def draw(rng: np.random.Generator) -> list[Step]:
    """Draw shot and read noise, correlated as on real sensors from ISO 100 to about 6400."""
    log_shot = rng.uniform(np.log(1e-4), np.log(0.012))
    log_read = 2.18 * log_shot + 1.20 + rng.normal(0, 0.26)
    return [
        CameraNoise(shot=float(np.exp(log_shot)), read=float(np.exp(log_read)), seed=draw_seed(rng))
    ]


DEGRADATION = after_downscaling("iso_noise", draw, damages={"noisy"})
