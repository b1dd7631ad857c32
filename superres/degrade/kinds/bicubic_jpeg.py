"""`bicubic_jpeg`: bicubic downscaling, then JPEG at a random quality."""

import numpy as np

from superres.degrade.degradation import Degradation, downscaled
from superres.degrade.jpeg import compress
from superres.degrade.result import Degraded, Pixels

QUALITIES = (30, 60)


def _degrade(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    quality = int(rng.integers(QUALITIES[0], QUALITIES[1], endpoint=True))
    pixels = compress(downscaled(hr_hwc_u8, scale), quality)
    return Degraded(lr_hwc_u8=pixels, parameters={"jpeg_quality": quality})


DEGRADATION = Degradation(name="bicubic_jpeg", degrade=_degrade, damages=frozenset({"compressed"}))
