"""VDSR: twenty convolutions predict the residual to bicubic enlargement (Kim et al. 2016)."""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from superres.model.archs.architecture import ArchFacts, Architecture, Parameters
from superres.model.archs.initialise import kaiming_
from superres.model.archs.upsample import BicubicUpsample


class VDSR(nn.Module):
    """`num_conv` convolutions of `num_feat` features at the output's resolution, on RGB."""

    def __init__(
        self,
        upscale: Annotated[int, Field(ge=1)] = 4,
        num_feat: Annotated[int, Field(ge=1)] = 64,
        num_conv: Annotated[int, Field(ge=2)] = 20,
    ) -> None:
        super().__init__()
        self.enlarge = BicubicUpsample(upscale)
        layers: list[nn.Module] = [nn.Conv2d(3, num_feat, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(num_conv - 2):
            layers += [nn.Conv2d(num_feat, num_feat, 3, padding=1), nn.ReLU(inplace=True)]
        last = nn.Conv2d(num_feat, 3, 3, padding=1)
        self.body = nn.Sequential(*layers, last)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                kaiming_(layer, damping=0.1 if layer is last else 1.0)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        enlarged = self.enlarge(lr_bchw)
        return enlarged + self.body(enlarged)


def _facts(parameters: Parameters) -> ArchFacts:
    scale = parameters["upscale"]
    return ArchFacts(scale=scale, receptive_field=math.ceil(parameters["num_conv"] / scale) + 3)


ARCH = Architecture(
    name="vdsr", network=VDSR, facts=_facts, scale_parameters=frozenset({"upscale"})
)
