"""SRCNN: three convolutions on the bicubically enlarged picture (Dong et al. 2014)."""

from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.initialise import kaiming_
from superres.model.archs.upsample import BicubicUpsample


class SRCNN(nn.Module):
    """The 9-1-5 network on RGB, which predicts the residual to bicubic enlargement."""

    def __init__(self, upscale: int = 4, num_feat: int = 64, num_map: int = 32) -> None:
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
