"""`jpeg`: the compression of JPEGs in the wild, with random tables and subsampling."""

import numpy as np

from superres.degrade.degradation import Degradation, downscaled
from superres.degrade.jpeg import Subsampling, compress_as
from superres.degrade.result import Degraded, Pixels

QUALITIES = (10, 95)
# The assumed frequencies in the wild: encoders subsample chroma by default.
SUBSAMPLINGS: dict[Subsampling, float] = {"4:2:0": 0.6, "4:2:2": 0.15, "4:4:4": 0.25}
# Quantisation tables other than libjpeg's: those of Photoshop's quality presets.
PHOTOSHOP_SHARE = 0.15
PHOTOSHOP = ("web_low", "web_medium", "web_high", "web_very_high", "low", "medium", "high")


def _degrade(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    rgb_hwc_u8 = downscaled(hr_hwc_u8, scale)
    names = list(SUBSAMPLINGS)
    subsampling = names[int(rng.choice(len(names), p=list(SUBSAMPLINGS.values())))]
    quality = int(rng.integers(*QUALITIES, endpoint=True))
    preset = PHOTOSHOP[int(rng.integers(len(PHOTOSHOP)))]
    parameters: dict[str, int | str] = {"subsampling": subsampling}
    if rng.random() < PHOTOSHOP_SHARE:
        pixels = compress_as(rgb_hwc_u8, subsampling, photoshop=preset)
        parameters["photoshop"] = preset
    else:
        pixels = compress_as(rgb_hwc_u8, subsampling, quality=quality)
        parameters["quality"] = quality
    return Degraded(lr_hwc_u8=pixels, parameters=parameters)


DEGRADATION = Degradation(name="jpeg", degrade=_degrade, damages=frozenset({"compressed"}))
