"""How a high-resolution picture becomes the low-resolution one that a model learns from.

Every degradation is a function of the pixels, the scale and a seed alone, and says what it drew.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from superres.degrade.jpeg import compress
from superres.errors import UsageError
from superres.resize import imresize

Pixels = npt.NDArray[np.uint8]

JPEG_QUALITIES = (30, 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded:
    """The low-resolution picture (h, w, 3) uint8 and what was drawn to make it."""

    lr_hwc_u8: Pixels
    parameters: dict[str, int | float | str]


def degrade(hr_hwc_u8: Pixels, *, kind: str, scale: int, seed: int) -> Degraded:
    """Degrade an RGB picture (H, W, 3) whose sides are multiples of `scale`.

    The same pixels, kind, scale and seed always give the same bytes. Raises UsageError on a kind
    that is not in KINDS.
    """
    height, width = hr_hwc_u8.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"{width}x{height} is not divisible by {scale}; crop the picture first")
    return known(kind)(hr_hwc_u8, scale, np.random.default_rng(seed))


def known(kind: str) -> "Callable[[Pixels, int, np.random.Generator], Degraded]":
    """The degradation called `kind`; raises UsageError naming those that exist."""
    if kind not in KINDS:
        raise UsageError(f"no degradation {kind!r}; choose one of {', '.join(sorted(KINDS))}")
    return KINDS[kind]


def _bicubic(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    height, width = hr_hwc_u8.shape[:2]
    lr_hwc_u8 = imresize(hr_hwc_u8, size=(height // scale, width // scale))
    return Degraded(lr_hwc_u8=lr_hwc_u8, parameters={})


def _bicubic_jpeg(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    quality = int(rng.integers(JPEG_QUALITIES[0], JPEG_QUALITIES[1], endpoint=True))
    small = _bicubic(hr_hwc_u8, scale, rng).lr_hwc_u8
    return Degraded(lr_hwc_u8=compress(small, quality), parameters={"jpeg_quality": quality})


KINDS: dict[str, Callable[[Pixels, int, np.random.Generator], Degraded]] = {
    "bicubic": _bicubic, "bicubic_jpeg": _bicubic_jpeg}
