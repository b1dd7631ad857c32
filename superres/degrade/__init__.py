"""Degradations: the low-resolution training input from a high-resolution picture.

Every degradation is a function of the pixels, the scale and a seed alone, and returns the
parameters it drew. May import image and common.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from superres.degrade import bsrgan, real_esrgan
from superres.degrade.blur import defocus, motion
from superres.degrade.jpeg import compress, wild_jpeg
from superres.degrade.mix import Mix, parse_mix
from superres.degrade.noise import gaussian, iso, poisson
from superres.degrade.old_photo import aged_photo
from superres.degrade.result import Degraded, Pixels
from superres.degrade.steps import Step, apply_to_picture, as_json
from superres.image.resize import imresize

__all__ = ["JPEG_QUALITIES", "KINDS", "Degraded", "Mix", "degrade", "parse"]

JPEG_QUALITIES = (30, 60)


class _Draw(Protocol):
    """Draws the steps for a picture of a size (height, width) and a scale."""

    def __call__(
        self,
        size: tuple[int, int],
        scale: int,
        own: np.random.Generator,
        shared: np.random.Generator,
    ) -> list[Step]: ...


_Kind = Callable[[Pixels, int, np.random.Generator], Degraded]


def degrade(hr_hwc_u8: Pixels, *, kind: str, scale: int, seed: int) -> Degraded:
    """Degrade an RGB picture (H, W, 3) whose sides are multiples of `scale`.

    `kind` is one of KINDS, or a weighted mix of them (see `parse`), whose parameters also hold the
    drawn kind. The same pixels, kind, scale and seed always give the same bytes. Raises UsageError
    for an unknown kind.
    """
    height, width = hr_hwc_u8.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"{width}x{height} is not divisible by {scale}; crop the picture first")
    mix = parse(kind)
    chosen = mix.choose(seed)
    degraded = KINDS[chosen](hr_hwc_u8, scale, np.random.default_rng(seed))
    if len(mix.weights) > 1:
        degraded.parameters["kind"] = chosen
    return degraded


def parse(written: str | Mapping[str, float]) -> Mix:
    """Parse a kind's name, or a weighted mix of kinds as text or mapping; raises UsageError."""
    return parse_mix(written, KINDS)


def _bicubic(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    return Degraded(lr_hwc_u8=_downscaled(hr_hwc_u8, scale), parameters={})


def _bicubic_jpeg(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    quality = int(rng.integers(JPEG_QUALITIES[0], JPEG_QUALITIES[1], endpoint=True))
    pixels = compress(_downscaled(hr_hwc_u8, scale), quality)
    return Degraded(lr_hwc_u8=pixels, parameters={"jpeg_quality": quality})


def _blind(draw: _Draw) -> _Kind:
    """A degradation whose steps include the downscaling."""

    def run(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
        own, shared = rng.spawn(2)
        height, width = hr_hwc_u8.shape[:2]
        return _run_steps(hr_hwc_u8, draw((height, width), scale, own, shared))

    return run


def _after_downscaling(draw: Callable[[np.random.Generator], list]) -> _Kind:
    """A degradation of the picture at its final size."""

    def run(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
        return _run_steps(_downscaled(hr_hwc_u8, scale), draw(rng))

    return run


def _run_steps(rgb_hwc_u8: Pixels, steps: list[Step]) -> Degraded:
    return Degraded(
        lr_hwc_u8=apply_to_picture(rgb_hwc_u8, steps), parameters={"steps": as_json(steps)}
    )


def _downscaled(hr_hwc_u8: Pixels, scale: int) -> Pixels:
    height, width = hr_hwc_u8.shape[:2]
    return imresize(hr_hwc_u8, size=(height // scale, width // scale))


KINDS: dict[str, _Kind] = {
    "bicubic": _bicubic,
    "bicubic_jpeg": _bicubic_jpeg,
    "bsrgan": _blind(bsrgan.draw),
    "real_esrgan": _blind(real_esrgan.draw),
    "jpeg": lambda hr, scale, rng: wild_jpeg(_downscaled(hr, scale), rng),
    "defocus": _after_downscaling(defocus),
    "motion": _after_downscaling(motion),
    "gaussian_noise": _after_downscaling(gaussian),
    "poisson_noise": _after_downscaling(poisson),
    "iso_noise": _after_downscaling(iso),
    "old_photo": lambda hr, scale, rng: aged_photo(_downscaled(hr, scale), rng),
}
