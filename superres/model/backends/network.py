"""Load a bundle's weights into its torch network."""

from typing import TYPE_CHECKING

from superres.model.archs import ARCHS
from superres.model.bundle import BrokenBundle, Bundle

if TYPE_CHECKING:
    from torch import nn


def load_network(bundle: Bundle) -> "nn.Module":
    """The network with the bundle's weights, re-parameterised, in evaluation mode on the CPU.

    Raises BrokenBundle if the weights do not fit the stated network.
    """
    import torch

    arch = ARCHS.get(bundle.info.arch.name)
    network = arch.build(bundle.info.arch.parameters)
    state = {key: torch.from_numpy(value.copy()) for key, value in bundle.weights().items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BrokenBundle(
            f"{bundle.root}: the weights do not fit the network {arch.name!r} that bundle.json "
            f"states ({str(error).splitlines()[-1].strip()})"
        ) from error
    return arch.reparameterise(network.eval())
