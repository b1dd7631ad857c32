"""SRCNN: three convolutions on the bicubically enlarged picture (Dong et al. 2014)."""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.architecture import ArchFacts, Architecture, Parameters
from superres.model.archs.initialise import kaiming_
from superres.model.archs.upsample import BicubicUpsample


class SRCNN(nn.Module):
    """The 9-1-5 network on RGB, which predicts the residual to bicubic enlargement."""

    def __init__(
        self,
        upscale: Annotated[int, Field(ge=1)] = 4,
        num_feat: Annotated[int, Field(ge=1)] = 64,
        num_map: Annotated[int, Field(ge=1)] = 32,
    ) -> None:
        super().__init__()
        self.enlarge = BicubicUpsample(upscale)
        self.conv1 = nn.Conv2d(3, num_feat, 9, padding=4)
        self.conv2 = nn.Conv2d(num_feat, num_map, 1)
        self.conv3 = nn.Conv2d(num_map, 3, 5, padding=2)
        kaiming_(self.conv1)
        kaiming_(self.conv2)
        kaiming_(self.conv3, damping=0.1)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        enlarged = self.enlarge(lr_bchw)
        features = functional.relu(self.conv1(enlarged))
        return enlarged + self.conv3(functional.relu(self.conv2(features)))


def _facts(parameters: Parameters) -> ArchFacts:
    # 9x9, 1x1 and 5x5 kernels reach 6 output pixels, the bicubic upsampling 2 input pixels.
    scale = parameters["upscale"]
    return ArchFacts(scale=scale, receptive_field=math.ceil(6 / scale) + 3)


ARCH = Architecture(
    name="srcnn", network=SRCNN, facts=_facts, scale_parameters=frozenset({"upscale"})
)
