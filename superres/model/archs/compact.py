"""SRVGGNetCompact: convolutions at low resolution (Real-ESRGAN, Wang et al. 2021)."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from superres.model.archs.architecture import (
    ArchFacts,
    Architecture,
    Parameters,
    SpandrelLayout,
)
from superres.model.archs.initialise import kaiming_
from superres.model.archs.upsample import nearest_channels


class SRVGGNetCompact(nn.Module):
    """Convolutions and activations, one pixel shuffle, plus the nearest-neighbour enlargement.

    Input (B, num_in_ch, H, W), output at `upscale`.
    """

    def __init__(
        self,
        num_in_ch: Annotated[int, Field(ge=1)] = 3,
        num_out_ch: Annotated[int, Field(ge=1)] = 3,
        num_feat: Annotated[int, Field(ge=1)] = 64,
        num_conv: Annotated[int, Field(ge=0)] = 16,
        upscale: Annotated[int, Field(ge=1)] = 4,
        act_type: Literal["prelu", "relu", "leakyrelu"] = "prelu",
    ) -> None:
        super().__init__()
        self.upscale = upscale
        channels = [num_in_ch, *[num_feat] * (num_conv + 1)]
        self.body = nn.ModuleList()
        for inputs, outputs in pairwise(channels):
            self.body.append(nn.Conv2d(inputs, outputs, 3, 1, 1))
            self.body.append(_activation(act_type, num_feat))
        self.body.append(nn.Conv2d(num_feat, num_out_ch * upscale * upscale, 3, 1, 1))
        self.upsampler = nn.PixelShuffle(upscale)
        self._initialise()

    def _initialise(self) -> None:
        # With torch's default, and more so with a zeroed last layer, PReLU stacks do not converge.
        convolutions = [layer for layer in self.body if isinstance(layer, nn.Conv2d)]
        for layer in convolutions:
            kaiming_(layer, slope=0.25, damping=0.1 if layer is convolutions[-1] else 1.0)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        features = lr_bchw
        for layer in self.body:
            features = layer(features)
        return self.upsampler(features + nearest_channels(lr_bchw, self.upscale))


def _activation(act_type: str, channels: int) -> nn.Module:
    if act_type == "prelu":
        return nn.PReLU(num_parameters=channels)
    if act_type == "relu":
        return nn.ReLU(inplace=True)
    return nn.LeakyReLU(negative_slope=0.1, inplace=True)


def _facts(parameters: Parameters) -> ArchFacts:
    return ArchFacts(scale=parameters["upscale"], receptive_field=parameters["num_conv"] + 2)


def _from_spandrel(network: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    names = ("num_in_ch", "num_out_ch", "num_feat", "num_conv", "upscale")
    parameters = {name: network.hyperparameters[name] for name in names} | {"act_type": "prelu"}
    return parameters, dict(network.state_dict())


ARCH = Architecture(
    name="compact",
    network=SRVGGNetCompact,
    facts=_facts,
    spandrel=SpandrelLayout(id="Compact", convert=_from_spandrel),
    scale_parameters=frozenset({"upscale"}),
    compiled_blocks=(SRVGGNetCompact,),
)
