"""RRDB's dense blocks for inference, without concatenating features.

A dense layer convolves the concatenation of all earlier features. Here each new feature map is
convolved once, with the stacked weights of all later layers, and added to their accumulators. This
avoids the copies into wider tensors: on a device the eager block is bound by memory bandwidth.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.rrdb import RESIDUAL_SCALE, ResidualDenseBlock, leaky


class ConcatFreeBlock(nn.Module):
    """A `ResidualDenseBlock` of the same weights; another summation order changes the last bits."""

    def __init__(self, block: ResidualDenseBlock) -> None:
        super().__init__()
        layers = (block.conv1, block.conv2, block.conv3, block.conv4, block.conv5)
        self.growth = block.conv1.out_channels
        self.register_buffer("bias", torch.cat([_bias(layer) for layer in layers]))
        start = 0
        for number in range(len(layers)):
            width = block.conv1.in_channels if number == 0 else self.growth
            weights = [layer.weight[:, start : start + width] for layer in layers[number:]]
            stacked = torch.cat(weights).contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"weight{number}", stacked)
            start += width

    def forward(self, features: Tensor) -> Tensor:
        accumulated = self._convolved(features, 0)
        for number in range(1, 5):
            activated = leaky(accumulated[:, : self.growth])
            accumulated = accumulated[:, self.growth :] + self._convolved(activated, number)
        return features + RESIDUAL_SCALE * accumulated

    def _convolved(self, features: Tensor, number: int) -> Tensor:
        weight = cast("Tensor", getattr(self, f"weight{number}"))
        bias = cast("Tensor", self.bias) if number == 0 else None
        return functional.conv2d(features, weight, bias, padding=1)


def without_concatenation(network: nn.Module) -> nn.Module:
    """Replace every dense block of the network, in place; other modules are unchanged."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ResidualDenseBlock):
                setattr(module, name, ConcatFreeBlock(child))
    return network


def _bias(layer: nn.Conv2d) -> Tensor:
    return cast("Tensor", layer.bias).detach()
