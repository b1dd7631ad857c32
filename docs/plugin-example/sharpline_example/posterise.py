"""`posterise`: bicubic downscaling and few grey levels, as in old GIFs."""

import numpy as np

from superres.degrade.degradation import Degradation, downscaled
from superres.degrade.result import Degraded, Pixels


def _degrade(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    levels = int(rng.integers(8, 33))
    step = 255 / (levels - 1)
    few = np.rint(np.rint(downscaled(hr_hwc_u8, scale) / step) * step)
    return Degraded(lr_hwc_u8=few.astype(np.uint8), parameters={"levels": levels})


DEGRADATION = Degradation(name="posterise", degrade=_degrade)
