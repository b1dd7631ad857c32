"""`bicubic`: MATLAB's bicubic downscaling alone, the protocol of published scores."""

import numpy as np

from superres.degrade.degradation import Degradation, downscaled
from superres.degrade.result import Degraded, Pixels


def _degrade(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    return Degraded(lr_hwc_u8=downscaled(hr_hwc_u8, scale), parameters={})


DEGRADATION = Degradation(name="bicubic", degrade=_degrade)
