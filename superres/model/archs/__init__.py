"""The networks; state-dict keys are basicsr's if it has the network, so its weights load.

Every network maps RGB in [0, 1], (B, 3, H, W), to (B, 3, H * scale, W * scale). May import image
and common; the package itself imports no torch.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from superres.common.errors import SharplineError

if TYPE_CHECKING:
    from torch import nn


class UnknownArch(SharplineError):
    """The name is not one of this package's networks, or the parameters are invalid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchFacts:
    """A network's properties for tiling; lengths are in low-resolution pixels.

    `receptive_field` is the one-sided reach of an output pixel, None if attention or pooling makes
    it unbounded in practice; input sides must be multiples of `size_multiple`, and tiles of a
    window-attention network must start on multiples of `window`.
    """

    scale: int
    receptive_field: int | None
    size_multiple: int
    window: int | None


# Raised by the constructors, torch's included, for parameters of a wrong type or size.
PARAMETER_ERRORS = (TypeError, ValueError, RuntimeError, ArithmeticError)

_CLASSES = {
    "rrdb": "RRDBNet",
    "swinir": "SwinIR",
    "compact": "SRVGGNetCompact",
    "srcnn": "SRCNN",
    "vdsr": "VDSR",
    "nafnet": "NAFNet",
}


def build(arch: str, parameters: Mapping[str, Any]) -> "nn.Module":
    """A newly initialised network.

    Raises UnknownArch for an unknown name or invalid parameters.
    """
    network = network_class(arch)
    try:
        return network(**parameters)
    except PARAMETER_ERRORS as error:
        raise _bad_parameters(arch, error) from error


def network_class(arch: str) -> "type[nn.Module]":
    """The class of a network; the arguments of its constructor are the network's parameters."""
    if arch not in _CLASSES:
        raise UnknownArch(f"no network {arch!r}; there are: {', '.join(_CLASSES)}")
    return getattr(importlib.import_module(f"superres.model.archs.{arch}"), _CLASSES[arch])


def facts(arch: str, parameters: Mapping[str, Any]) -> ArchFacts:
    """Scale, receptive field and size rules of a network, from its parameters alone (no torch).

    Raises UnknownArch as `build` does.
    """
    if arch not in _FACTS:
        raise UnknownArch(f"no network {arch!r}; there are: {', '.join(_FACTS)}")
    try:
        return _FACTS[arch](parameters)
    except PARAMETER_ERRORS as error:
        raise _bad_parameters(arch, error) from error


def _bad_parameters(arch: str, error: Exception) -> UnknownArch:
    return UnknownArch(f"network {arch!r} does not take these parameters: {error}")


def _rrdb(parameters: Mapping[str, Any]) -> ArchFacts:
    # Per block three dense blocks of five 3x3 convolutions, two convolutions around the body at
    # the input's resolution, and a tail at 2x and 4x that reaches less than two pixels. At scale 2
    # and 1 the input is pixel-unshuffled, so the reach doubles or quadruples.
    scale = int(parameters.get("scale", 4))
    if scale not in (1, 2, 4):
        raise ValueError(f"scale must be 1, 2 or 4, not {scale}")
    unshuffle = 4 // scale
    reach = 15 * int(parameters.get("num_block", 23)) + 4
    return ArchFacts(
        scale=scale,
        receptive_field=reach * unshuffle,
        size_multiple=unshuffle,
        window=None,
    )


def _swinir(parameters: Mapping[str, Any]) -> ArchFacts:
    window = int(parameters.get("window_size", 8))
    return ArchFacts(
        scale=int(parameters.get("upscale", 1)),
        receptive_field=None,
        size_multiple=window,
        window=window,
    )


def _compact(parameters: Mapping[str, Any]) -> ArchFacts:
    return ArchFacts(
        scale=int(parameters.get("upscale", 4)),
        receptive_field=int(parameters.get("num_conv", 16)) + 2,
        size_multiple=1,
        window=None,
    )


def _srcnn(parameters: Mapping[str, Any]) -> ArchFacts:
    # 9x9, 1x1 and 5x5 kernels reach 6 output pixels, the bicubic upsampling 2 input pixels.
    scale = int(parameters.get("upscale", 4))
    return ArchFacts(
        scale=scale, receptive_field=math.ceil(6 / scale) + 3, size_multiple=1, window=None
    )


def _vdsr(parameters: Mapping[str, Any]) -> ArchFacts:
    scale = int(parameters.get("upscale", 4))
    depth = int(parameters.get("num_conv", 20))
    return ArchFacts(
        scale=scale, receptive_field=math.ceil(depth / scale) + 3, size_multiple=1, window=None
    )


def _nafnet(parameters: Mapping[str, Any]) -> ArchFacts:
    levels = len(parameters.get("enc_blk_nums", (1, 1, 2)))
    return ArchFacts(scale=1, receptive_field=None, size_multiple=2**levels, window=None)


_FACTS: dict[str, Callable[[Mapping[str, Any]], ArchFacts]] = {
    "rrdb": _rrdb,
    "swinir": _swinir,
    "compact": _compact,
    "srcnn": _srcnn,
    "vdsr": _vdsr,
    "nafnet": _nafnet,
}
