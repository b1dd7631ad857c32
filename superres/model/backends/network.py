"""Load a bundle's weights into its torch network."""

from typing import TYPE_CHECKING

from superres.model.archs import ARCHS, UnknownArch, build
from superres.model.bundle import BrokenBundle, Bundle

if TYPE_CHECKING:
    from torch import nn


def load_network(bundle: Bundle) -> "nn.Module":
    """The network with the bundle's weights, re-parameterised, in evaluation mode on the CPU.

    Raises BrokenBundle if the weights do not fit the stated network, UnknownArch if the package of
    the network is not installed.
    """
    import torch
    from torch import nn

    stated = bundle.info.arch
    if stated.name not in ARCHS:
        package = stated.package or "another package"
        raise UnknownArch(
            f"{bundle.root} needs the network {stated.name!r} of {package}, which is not installed"
        )
    arch = ARCHS.get(stated.name)
    network = build(stated.name, stated.parameters)
    state = {key: torch.from_numpy(value.copy()) for key, value in bundle.weights().items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BrokenBundle(
            f"{bundle.root}: the weights do not fit the network {arch.name!r} that bundle.json "
            f"states ({str(error).splitlines()[-1].strip()})"
        ) from error
    with ARCHS.failures_of(arch.name):
        merged = arch.reparameterise(network.eval())
        if not isinstance(merged, nn.Module):
            raise TypeError(f"`reparameterise` returned {type(merged).__name__}, not a module")
    return merged
