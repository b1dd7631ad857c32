"""`branches`: convolutions with a parallel branch, which is merged for inference (Ding et al. 2021,
"RepVGG")."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.architecture import ArchFacts, Architecture, Parameters


class BranchConv(nn.Module):
    """A 3x3 and a 1x1 convolution, added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv1 = nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv3(features) + self.conv1(features)

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """One 3x3 convolution with the same output."""
        merged = nn.Conv2d(self.conv3.in_channels, self.conv3.out_channels, 3, padding=1)
        merged.weight.copy_(self.conv3.weight + functional.pad(self.conv1.weight, (1, 1, 1, 1)))
        biases = cast("Tensor", self.conv3.bias) + cast("Tensor", self.conv1.bias)
        cast("Tensor", merged.bias).copy_(biases)
        return merged


class Branches(nn.Module):
    """`depth` branched convolutions and a pixel shuffle, added to the nearest enlargement."""

    def __init__(
        self,
        upscale: Annotated[int, Field(ge=1)] = 2,
        num_feat: Annotated[int, Field(ge=1)] = 16,
        depth: Annotated[int, Field(ge=2)] = 3,
    ) -> None:
        super().__init__()
        self.upscale = upscale
        channels = [3, *[num_feat] * (depth - 1), 3 * upscale**2]
        self.body = nn.ModuleList(map(BranchConv, channels, channels[1:]))

    def forward(self, lr_bchw: Tensor) -> Tensor:
        features = lr_bchw
        for index, layer in enumerate(self.body):
            features = layer(features if index == 0 else functional.relu(features))
        nearest = lr_bchw.repeat_interleave(self.upscale**2, dim=1)
        return functional.pixel_shuffle(0.1 * features + nearest, self.upscale)


def _facts(parameters: Parameters) -> ArchFacts:
    return ArchFacts(scale=parameters["upscale"], receptive_field=parameters["depth"])


def _detect(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The parameters of a state dict with this network's keys."""
    depth = len({key.split(".")[1] for key in state if key.startswith("body.")})
    first, last = (state.get(f"body.{index}.conv1.weight") for index in (0, depth - 1))
    if first is None or last is None:
        return None
    return {"upscale": round((len(last) / 3) ** 0.5), "num_feat": len(first), "depth": depth}


def _reparameterise(network: nn.Module) -> nn.Module:
    network = cast("Branches", network)
    network.body = nn.ModuleList(cast("BranchConv", layer).merged() for layer in network.body)
    return network


ARCH = Architecture(
    name="branches",
    network=Branches,
    facts=_facts,
    detect=_detect,
    scale_parameters=frozenset({"upscale"}),
    reparameterise=_reparameterise,
)
