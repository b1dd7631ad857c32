"""`defocus`: blur by an unfocused lens."""

import numpy as np

from superres.degrade.blur import Blur
from superres.degrade.degradation import after_downscaling
from superres.degrade.kernels import Defocus
from superres.degrade.steps import Step

RADII = (0.8, 4.5)


def draw(rng: np.random.Generator) -> list[Step]:
    """Draw the blur; the radius is in pixels of the blurred picture."""
    radius = float(np.exp(rng.uniform(*np.log(RADII))))
    return [Blur(kernel=Defocus(radius=radius, softness=float(rng.uniform(0.2, 0.6))))]


DEGRADATION = after_downscaling("defocus", draw, damages={"blurred"})
