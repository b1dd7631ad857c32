"""Degradations: the low-resolution training input from a high-resolution picture.

Every degradation is a function of the pixels, the scale and a seed alone, and returns the
parameters it drew. May import image and common.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from superres.degrade.kinds import DEGRADATIONS
from superres.degrade.mix import Mix, parse_mix
from superres.degrade.result import Degraded, Pixels, check_degraded

__all__ = ["DEGRADATIONS", "Degraded", "Mix", "degrade", "parse"]


def degrade(hr_hwc_u8: Pixels, *, kind: str, scale: int, seed: int) -> Degraded:
    """Degrade an RGB picture (H, W, 3) whose sides are multiples of `scale`.

    `kind` is a name in DEGRADATIONS, or a weighted mix (see `parse`), whose parameters also hold
    the drawn kind. The same pixels, kind, scale and seed always give the same bytes. Raises
    UsageError for an unknown kind.
    """
    height, width = hr_hwc_u8.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"{width}x{height} is not divisible by {scale}; crop the picture first")
    mix = parse(kind)
    chosen = mix.choose(seed)
    degradation = DEGRADATIONS.get(chosen)
    with DEGRADATIONS.failures_of(chosen):
        degraded = degradation.degrade(hr_hwc_u8, scale, np.random.default_rng(seed))
        check_degraded(degraded, (height // scale, width // scale))
    if len(mix.weights) > 1:
        return replace(degraded, parameters={**degraded.parameters, "kind": chosen})
    return degraded


def parse(written: str | Mapping[str, float]) -> Mix:
    """Parse a kind's name, or a weighted mix of kinds as text or mapping; raises UsageError."""
    return parse_mix(written, DEGRADATIONS)
