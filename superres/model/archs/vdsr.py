"""VDSR: twenty convolutions predict the residual to bicubic enlargement (Kim et al. 2016)."""

from torch import Tensor, nn

from superres.model.archs.initialise import kaiming_
from superres.model.archs.upsample import BicubicUpsample


class VDSR(nn.Module):
    """`num_conv` convolutions of `num_feat` features at the output's resolution, on RGB."""

    def __init__(self, upscale: int = 4, num_feat: int = 64, num_conv: int = 20) -> None:
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
