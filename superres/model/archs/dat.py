"""DAT: attention over windows and over channels, in alternate blocks (Chen et al. 2023).

DAT-light is one group of 18 blocks of 60 channels. Half of the channels are attended to in windows
of `split_size`, the other half in windows of the swapped sides. Input sides must be multiples of
both; the caller pads (`model.tiling`). Channel attention and the channel gates
average over the whole input, so a tile's output depends on the tile: seams are measured, not zero.
Masks, relative positions and their index are derived from the shape and are not part of the state
dict; files that contain them load nevertheless.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

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
from superres.model.archs.dat_attention import (
    AdaptiveAttention,
    ChannelAttention,
    SpatialAttention,
)
from superres.model.archs.derived import ignore_on_load, last_part_in, without_keys
from superres.model.archs.initialise import initialise_linear
from superres.model.archs.reconstruction import (
    DIV2K_MEAN,
    RECONSTRUCTION_FEATURES,
    residual_convolution,
    shuffle_steps,
)

is_derived = last_part_in("attn_mask_0", "attn_mask_1", "rpe_biases", "relative_position_index")


class SpatialGate(nn.Module):
    """Half of the channels times a depthwise convolution of the other half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens_bhwc: Tensor) -> Tensor:
        kept, gate = tokens_bhwc.chunk(2, dim=-1)
        gate_bchw = self.conv(self.norm(gate).permute(0, 3, 1, 2))
        return kept * gate_bchw.permute(0, 2, 3, 1)


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.sg = SpatialGate(hidden // 2)
        self.fc2 = nn.Linear(hidden // 2, channels)

    def forward(self, tokens_bhwc: Tensor) -> Tensor:
        return self.fc2(self.sg(functional.gelu(self.fc1(tokens_bhwc))))


class Block(nn.Module):
    """Attention, then a feed-forward network, each with a residual connection."""

    def __init__(self, channels: int, attention: AdaptiveAttention, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, hidden)

    def forward(self, tokens_bhwc: Tensor) -> Tensor:
        tokens_bhwc = tokens_bhwc + self.attn(self.norm1(tokens_bhwc))
        return tokens_bhwc + self.ffn(self.norm2(tokens_bhwc))


class Group(nn.Module):
    """Blocks and a convolution with a residual connection."""

    def __init__(self, blocks: Sequence[Block], channels: int, resi_connection: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = residual_convolution(channels, resi_connection)

    def forward(self, tokens_bhwc: Tensor) -> Tensor:
        inner = tokens_bhwc
        for block in self.blocks:
            inner = block(inner)
        return self.conv(inner.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + tokens_bhwc


class DAT(nn.Module):
    """The network; parameters and state-dict keys are those of the authors' code.

    Input (B, in_chans, H, W) in [0, 1], H and W multiples of both sides of `split_size`; output at
    `upscale`. The defaults are DAT-light's. Batch normalisation needs batches of more than one.
    """

    mean: Tensor

    def __init__(
        self,
        in_chans: Annotated[int, Field(ge=1)] = 3,
        embed_dim: Annotated[int, Field(ge=1)] = 60,
        split_size: Sequence[int] = (8, 32),
        depth: Sequence[int] = (18,),
        num_heads: Sequence[int] = (6,),
        expansion_factor: Annotated[float, Field(gt=0)] = 2.0,
        qkv_bias: bool = True,
        upscale: Annotated[int, Field(ge=1)] = 4,
        img_range: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
        resi_connection: Literal["1conv", "3conv"] = "3conv",
        upsampler: Literal["pixelshuffle", "pixelshuffledirect"] = "pixelshuffledirect",
    ) -> None:
        super().__init__()
        hidden = int(embed_dim * expansion_factor)
        _check(
            {
                "embed_dim": embed_dim,
                "split_size": split_size,
                "depth": depth,
                "num_heads": num_heads,
                "expansion_factor": expansion_factor,
            }
        )
        self.img_range, self.upsampler = img_range, upsampler
        mean = DIV2K_MEAN if in_chans == 3 else (0.0,) * in_chans
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        rows, columns = split_size

        def block(group: int, index: int) -> Block:
            heads = num_heads[group]
            attention: AdaptiveAttention
            if index % 2:
                attention = ChannelAttention(embed_dim, heads, qkv_bias)
            else:
                # Every second spatial block is shifted, with the first one in odd groups.
                shift = index % 4 == (2, 0)[group % 2]
                attention = SpatialAttention(embed_dim, heads, (rows, columns), shift, qkv_bias)
            return Block(embed_dim, attention, hidden)

        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, 1, 1)
        # Named only for the state-dict keys.
        self.before_RG = nn.ModuleDict({"1": nn.LayerNorm(embed_dim)})
        self.layers = nn.ModuleList(
            Group([block(group, i) for i in range(blocks)], embed_dim, resi_connection)
            for group, blocks in enumerate(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_convolution(embed_dim, resi_connection)
        self._add_reconstruction(embed_dim, in_chans, upscale)
        self.apply(initialise_linear)
        ignore_on_load(self, is_derived)

    def _add_reconstruction(self, channels: int, outputs: int, upscale: int) -> None:
        features = RECONSTRUCTION_FEATURES
        if self.upsampler == "pixelshuffle":
            self.conv_before_upsample = nn.Sequential(
                nn.Conv2d(channels, features, 3, 1, 1), nn.LeakyReLU(inplace=True)
            )
            self.upsample = nn.Sequential(*shuffle_steps(upscale, features))
            self.conv_last = nn.Conv2d(features, outputs, 3, 1, 1)
        else:
            self.upsample = nn.Sequential(
                nn.Conv2d(channels, outputs * upscale**2, 3, 1, 1), nn.PixelShuffle(upscale)
            )

    def forward(self, lr_bchw: Tensor) -> Tensor:
        mean = self.mean.to(lr_bchw.dtype)
        shallow = self.conv_first((lr_bchw - mean) * self.img_range)
        tokens_bhwc = self.before_RG["1"](shallow.permute(0, 2, 3, 1))
        for layer in self.layers:
            tokens_bhwc = layer(tokens_bhwc)
        deep = self.norm(tokens_bhwc).permute(0, 3, 1, 2)
        features = self.conv_after_body(deep) + shallow
        if self.upsampler == "pixelshuffle":
            enlarged = self.conv_last(self.upsample(self.conv_before_upsample(features)))
        else:
            enlarged = self.upsample(features)
        return enlarged / self.img_range + mean


def _check(parameters: Parameters) -> None:
    embed_dim, split_size = parameters["embed_dim"], parameters["split_size"]
    depth, num_heads = parameters["depth"], parameters["num_heads"]
    if len(split_size) != 2 or min(split_size) < 2:
        raise TypeError(f"split_size must be two sides of at least 2, not {list(split_size)}")
    if len(depth) != len(num_heads) or not depth or min(depth) < 1:
        raise TypeError("depth and num_heads must be of one length, depths at least 1")
    for heads in num_heads:
        if heads < 2 or heads % 2 or embed_dim % heads:
            raise TypeError(f"num_heads must be even and divide embed_dim {embed_dim}, not {heads}")
    if embed_dim < 32:
        raise TypeError("embed_dim must be at least 32, so that every reduced layer has a channel")
    hidden = int(embed_dim * parameters["expansion_factor"])
    if hidden < 2 or hidden % 2:
        raise TypeError(
            f"expansion_factor must give an even number of hidden channels, not {hidden}"
        )


def _facts(parameters: Parameters) -> ArchFacts:
    _check(parameters)
    grid = math.lcm(*parameters["split_size"])
    return ArchFacts(
        scale=parameters["upscale"], receptive_field=None, size_multiple=grid, window=grid
    )


def _from_spandrel(network: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    names = ("in_chans", "embed_dim", "split_size", "depth", "num_heads", "expansion_factor")
    names += ("qkv_bias", "upscale", "img_range", "resi_connection", "upsampler")
    parameters = {name: network.hyperparameters[name] for name in names}
    return parameters, without_keys(network.state_dict(), is_derived)


ARCH = Architecture(
    name="dat",
    network=DAT,
    facts=_facts,
    spandrel=SpandrelLayout(id="DAT", convert=_from_spandrel),
    scale_parameters=frozenset({"upscale", "upsampler"}),
    compiled_blocks=(Block,),
)
