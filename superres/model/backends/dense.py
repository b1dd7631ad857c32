"""RRDB's dense blocks for inference: the same sums without ever concatenating features.

A dense layer is a convolution of everything before it. Written over the inputs instead of the
outputs, each new feature map is convolved once, with the weights of all later layers stacked, and
added to what those layers have collected so far. Nothing is copied into ever wider tensors, which
is what bounds the eager block on a device: memory, not arithmetic.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.rrdb import RESIDUAL_SCALE, ResidualDenseBlock, leaky


class ConcatFreeBlock(nn.Module):
    """A `ResidualDenseBlock` of the same weights; sums come in another order, so the last bits."""

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
        collected = self._convolved(features, 0)
        for number in range(1, 5):
            grown = leaky(collected[:, : self.growth])
            collected = collected[:, self.growth :] + self._convolved(grown, number)
        return features + RESIDUAL_SCALE * collected

    def _convolved(self, features: Tensor, number: int) -> Tensor:
        weight = cast("Tensor", getattr(self, f"weight{number}"))
        bias = cast("Tensor", self.bias) if number == 0 else None
        return functional.conv2d(features, weight, bias, padding=1)


def without_concatenation(network: nn.Module) -> nn.Module:
    """The network with every dense block replaced, in place; other networks stay as they are."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ResidualDenseBlock):
                setattr(module, name, ConcatFreeBlock(child))
    return network


def _bias(layer: nn.Conv2d) -> Tensor:
    return cast("Tensor", layer.bias).detach()
