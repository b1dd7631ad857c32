"""The networks; state-dict keys are basicsr's if it has the network, so its weights load.

A network is one module with an `Architecture`, listed below or announced by an installed package.
May import image and common; the package itself imports no torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from superres.common.registry import EntryRegistry
from superres.model.archs.architecture import ArchFacts, Architecture, UnknownArch

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ARCHS", "ArchFacts", "Architecture", "UnknownArch", "build", "facts"]

ARCHS = EntryRegistry(
    group="sharpline.archs",
    noun="network",
    entry_type=Architecture,
    built_in={
        name: f"superres.model.archs.{name}:ARCH"
        for name in ("rrdb", "swinir", "compact", "srcnn", "vdsr", "nafnet", "span", "plksr", "dat")
    },
    unknown=UnknownArch,
)


def build(arch: str, parameters: Mapping[str, Any]) -> "nn.Module":
    """A newly initialised network.

    Raises UnknownArch for an unknown name or invalid parameters.
    """
    entry = ARCHS.get(arch)
    with ARCHS.failures_of(arch):
        return entry.build(parameters)


def facts(arch: str, parameters: Mapping[str, Any]) -> ArchFacts:
    """Scale, receptive field and size rules of a network, from its parameters alone.

    Raises UnknownArch as `build` does.
    """
    entry = ARCHS.get(arch)
    with ARCHS.failures_of(arch):
        return entry.facts_for(parameters)
