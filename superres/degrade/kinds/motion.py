"""`motion`: blur by a camera that moved during the exposure."""

import numpy as np

from superres.degrade.blur import Blur
from superres.degrade.degradation import after_downscaling
from superres.degrade.kernels import Motion
from superres.degrade.steps import Step

LENGTHS = (4.0, 28.0)


def draw(rng: np.random.Generator) -> list[Step]:
    """Draw the blur; the length of the trajectory is in pixels of the blurred picture."""
    kernel = Motion(
        length=float(rng.uniform(*LENGTHS)),
        unrest=float(rng.uniform(0, 1)),
        seed=int(rng.integers(2**31)),
    )
    return [Blur(kernel=kernel)]


DEGRADATION = after_downscaling("motion", draw, damages={"blurred"})
