"""RRDBNet, ESRGAN's generator: residual-in-residual dense blocks (Wang et al. 2018)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.initialise import kaiming_

RESIDUAL_SCALE = 0.2
GROWTH = 1.2  # of the features' magnitude through one newly initialised block


class ResidualDenseBlock(nn.Module):
    """Five convolutions with dense connections; the residual is scaled by RESIDUAL_SCALE."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_grow_ch, 3, 1, 1)
        self.conv2 = nn.Conv2d(num_feat + num_grow_ch, num_grow_ch, 3, 1, 1)
        self.conv3 = nn.Conv2d(num_feat + 2 * num_grow_ch, num_grow_ch, 3, 1, 1)
        self.conv4 = nn.Conv2d(num_feat + 3 * num_grow_ch, num_grow_ch, 3, 1, 1)
        self.conv5 = nn.Conv2d(num_feat + 4 * num_grow_ch, num_feat, 3, 1, 1)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            # Deep residual networks need a tenth of Kaiming's deviation (ESRGAN, supplement).
            kaiming_(layer, damping=0.1)

    def forward(self, features: Tensor) -> Tensor:
        dense = [features]
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            dense.append(leaky(layer(torch.cat(dense, dim=1))))
        return features + RESIDUAL_SCALE * self.conv5(torch.cat(dense, dim=1))


class RRDB(nn.Module):
    """Three dense blocks with an outer residual connection."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, features: Tensor) -> Tensor:
        return features + RESIDUAL_SCALE * self.rdb3(self.rdb2(self.rdb1(features)))


class RRDBNet(nn.Module):
    """ESRGAN's generator, and Real-ESRGAN's at scale 2 and 1 (on pixel-unshuffled input).

    Input (B, num_in_ch, H, W) with sides divisible by 4 / scale, output at `scale` (1, 2 or 4).
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: int = 4,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 4):
            raise TypeError(f"scale must be 1, 2 or 4, not {scale}")
        self.unshuffle = 4 // scale
        self.conv_first = nn.Conv2d(num_in_ch * self.unshuffle**2, num_feat, 3, 1, 1)
        self.body = nn.Sequential(*[RRDB(num_feat, num_grow_ch) for _ in range(num_block)])
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)
        if scale == 4 and num_in_ch == num_out_ch == 3:
            self._initialise_as_interpolation(num_block)

    @torch.no_grad()
    def _initialise_as_interpolation(self, num_block: int) -> None:
        """Initialise the network as linear interpolation, so that training only adds detail.

        The first three features are the colours, which leaky ReLUs pass because they are not
        negative; nearest-neighbour upsampling and [1 2 1] / 4 are linear interpolation. All other
        weights start small, and so does the body's output: each new block amplifies by a fifth.
        """
        tent = torch.tensor([0.25, 0.5, 0.25])
        identity = torch.zeros(3, 3)
        identity[1, 1] = 1.0
        for layer, kernel in (
            (self.conv_first, identity),
            (self.conv_up1, torch.outer(tent, tent)),
            (self.conv_up2, torch.outer(tent, tent)),
            (self.conv_hr, identity),
            (self.conv_last, identity),
        ):
            layer.weight[:3] *= 0.02
            cast("Tensor", layer.bias)[:3] = 0.0
            for colour in range(3):
                layer.weight[colour, :3] = 0.0
                layer.weight[colour, colour] = kernel
        kaiming_(self.conv_body, damping=0.03 / GROWTH**num_block)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        if self.unshuffle > 1:
            lr_bchw = functional.pixel_unshuffle(lr_bchw, self.unshuffle)
        shallow = self.conv_first(lr_bchw)
        features = shallow + self.conv_body(self.body(shallow))
        features = leaky(self.conv_up1(upsample_nearest(features)))
        features = leaky(self.conv_up2(upsample_nearest(features)))
        return self.conv_last(leaky(self.conv_hr(features)))


def leaky(features: Tensor) -> Tensor:
    return functional.leaky_relu(features, negative_slope=0.2)


def upsample_nearest(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2, mode="nearest")
