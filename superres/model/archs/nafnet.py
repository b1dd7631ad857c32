"""NAFNet: restoration without activation functions, at the input's size (Chen et al. 2022).

State-dict keys are those of the authors' code. The paper's channel attention averages over the
whole picture, so tiles would differ from the whole; `pool` limits the average to a neighbourhood
(Chu et al. 2022, "test-time local converter"), here in training as in inference.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.architecture import (
    ArchFacts,
    Architecture,
    Parameters,
    SpandrelLayout,
)
from superres.model.archs.initialise import kaiming_

NORM_EPSILON = 1e-6


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        last = features.permute(0, 2, 3, 1)
        normal = functional.layer_norm(
            last, self.weight.shape, self.weight, self.bias, NORM_EPSILON
        )
        return normal.permute(0, 3, 1, 2)


class LocalMean(nn.Module):
    """The mean of each channel within `reach` pixels on every side; global for reach 0."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, features: Tensor) -> Tensor:
        if self.reach == 0:
            return features.mean(dim=(2, 3), keepdim=True)
        side = 2 * self.reach + 1
        # Separable: 2 * side additions per pixel instead of side squared.
        for kernel, padding in (((side, 1), (self.reach, 0)), ((1, side), (0, self.reach))):
            features = functional.avg_pool2d(
                features, kernel, stride=1, padding=padding, count_include_pad=False
            )
        return features


class Block(nn.Module):
    """Depthwise convolution with channel attention, then an MLP, each with a residual."""

    def __init__(self, channels: int, reach: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca = nn.Sequential(LocalMean(reach), nn.Conv2d(channels, channels, 1))
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = ChannelNorm(channels)
        self.norm2 = ChannelNorm(channels)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        inner = simple_gate(self.conv2(self.conv1(self.norm1(features))))
        inner = self.conv3(inner * self.sca(inner))
        features = features + inner * self.beta
        inner = self.conv5(simple_gate(self.conv4(self.norm2(features))))
        return features + inner * self.gamma


class NAFNet(nn.Module):
    """A U-Net of blocks that predicts the residual to its input.

    Input (B, img_channel, H, W) with sides divisible by 2 ** len(enc_blk_nums), output the same
    size. `pool` is the side of the channel attention's neighbourhood in input pixels, 0 for the
    whole picture as in the paper.
    """

    def __init__(
        self,
        img_channel: Annotated[int, Field(ge=1)] = 3,
        width: Annotated[int, Field(ge=1)] = 32,
        middle_blk_num: Annotated[int, Field(ge=0)] = 2,
        enc_blk_nums: Sequence[int] = (1, 1, 2),
        dec_blk_nums: Sequence[int] = (1, 1, 1),
        pool: Annotated[int, Field(ge=0)] = 32,
    ) -> None:
        super().__init__()
        if len(enc_blk_nums) != len(dec_blk_nums) or not enc_blk_nums:
            raise TypeError("enc_blk_nums and dec_blk_nums must be of one length, at least 1")
        if pool and pool < 2 ** (len(enc_blk_nums) + 1):
            raise TypeError(f"pool must be 0 or at least {2 ** (len(enc_blk_nums) + 1)}")

        def blocks(count: int, level: int) -> nn.Sequential:
            reach = pool // 2 ** (level + 1)
            return nn.Sequential(*[Block(width * 2**level, reach) for _ in range(count)])

        depth = len(enc_blk_nums)
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.encoders = nn.ModuleList(
            blocks(count, level) for level, count in enumerate(enc_blk_nums)
        )
        self.downs = nn.ModuleList(
            nn.Conv2d(width * 2**level, width * 2 ** (level + 1), 2, 2) for level in range(depth)
        )
        self.middle_blks = blocks(middle_blk_num, depth)
        self.ups = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width * 2**level, width * 2 ** (level + 1), 1, bias=False),
                nn.PixelShuffle(2),
            )
            for level in range(depth, 0, -1)
        )
        self.decoders = nn.ModuleList(
            blocks(count, depth - 1 - index) for index, count in enumerate(dec_blk_nums)
        )
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        # Blocks start as the identity (beta and gamma are zero); with this the whole network starts
        # near the identity, so that training starts at the input's score.
        kaiming_(self.ending, damping=0.01)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        features = self.intro(lr_bchw)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            features = encoder(features)
            skips.append(features)
            features = down(features)
        features = self.middle_blks(features)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            features = decoder(up(features) + skips.pop())
        return lr_bchw + self.ending(features)


def simple_gate(features: Tensor) -> Tensor:
    """SimpleGate: half of the channels times the other half."""
    first, second = features.chunk(2, dim=1)
    return first * second


def _facts(parameters: Parameters) -> ArchFacts:
    levels = len(parameters["enc_blk_nums"])
    return ArchFacts(scale=1, receptive_field=None, size_multiple=2**levels)


def _from_spandrel(network: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    names = ("img_channel", "width", "middle_blk_num", "enc_blk_nums", "dec_blk_nums")
    parameters = {name: network.hyperparameters[name] for name in names} | {"pool": 0}
    return parameters, dict(network.state_dict())


ARCH = Architecture(
    name="nafnet",
    network=NAFNet,
    facts=_facts,
    spandrel=SpandrelLayout(id="NAFNet", convert=_from_spandrel),
    weightless_parameters=frozenset({"pool"}),
)
