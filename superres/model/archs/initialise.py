"""Initialisation of convolutions and linear layers."""

import torch
from torch import nn


def kaiming_(layer: nn.Conv2d, *, slope: float = 0.0, damping: float = 1.0) -> None:
    """Kaiming initialisation (He et al. 2015), the weights times `damping`, the bias zero."""
    nn.init.kaiming_normal_(layer.weight, a=slope)
    with torch.no_grad():
        layer.weight.mul_(damping)
        if layer.bias is not None:
            layer.bias.zero_()


def initialise_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
