"""`jpeg`: the compression of JPEGs in the wild, with random tables and subsampling."""

import numpy as np

from superres.degrade.degradation import Degradation, downscaled
from superres.degrade.jpeg import wild_jpeg
from superres.degrade.result import Degraded, Pixels


def _degrade(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    return wild_jpeg(downscaled(hr_hwc_u8, scale), rng)


DEGRADATION = Degradation(name="jpeg", degrade=_degrade, damages=frozenset({"compressed"}))
