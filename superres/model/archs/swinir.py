"""SwinIR: shifted-window attention for restoration (Liang et al. 2021).

Input sides must be multiples of the window; the caller pads (`model.tiling`). The attention mask
and the relative-position index are derived from the shape and are not part of the state dict; files
that contain them load nevertheless. Attention is an explicit softmax, which exports to other
runtimes.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.architecture import (
    ArchFacts,
    Architecture,
    Parameters,
    SpandrelLayout,
    UnsupportedVariant,
)
from superres.model.archs.derived import ignore_on_load, last_part_in, without_keys
from superres.model.archs.initialise import initialise_linear
from superres.model.archs.reconstruction import (
    DIV2K_MEAN,
    RECONSTRUCTION_FEATURES,
    residual_convolution,
    shuffle_steps,
)
from superres.model.archs.upsample import bicubic_phases
from superres.model.archs.windows import from_windows, relative_positions, shift_mask, to_windows

is_derived = last_part_in("attn_mask", "relative_position_index")
SHIFTED_COPIES = 27  # three colours under nine shifts
BODY_DAMPING = 0.02


class WindowAttention(nn.Module):
    """Multi-head attention inside windows with a learned bias per relative position."""

    relative_index: Tensor

    def __init__(self, channels: int, window: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        if channels % heads:
            raise TypeError(f"embed_dim {channels} is no multiple of num_heads {heads}")
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) * (2 * window - 1), heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer(
            "relative_index", relative_positions((window, window)), persistent=False
        )
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (windows, positions, channels), mask (picture windows, positions, positions)."""
        windows, positions, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(windows, positions, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_index.reshape(-1)]
        bias = bias.reshape(positions, positions, self.heads).permute(2, 0, 1)
        scores = scores + bias.unsqueeze(0)
        if mask is not None:
            grouped = scores.reshape(-1, mask.shape[0], self.heads, positions, positions)
            scores = (grouped + mask[None, :, None].to(scores.dtype)).reshape(scores.shape)
        mixed = scores.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(windows, positions, channels))


class Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class SwinBlock(nn.Module):
    """Attention over (shifted) windows, then an MLP, each with a residual connection."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))

    def forward(self, tokens_bhwc: Tensor, mask: Tensor | None) -> Tensor:
        shifted = self.norm1(tokens_bhwc)
        if self.shift:
            shifted = torch.roll(shifted, (-self.shift, -self.shift), dims=(1, 2))
        window = (self.window, self.window)
        mixed = self.attn(to_windows(shifted, window), mask if self.shift else None)
        mixed = from_windows(mixed, window, tokens_bhwc.shape)
        if self.shift:
            mixed = torch.roll(mixed, (self.shift, self.shift), dims=(1, 2))
        tokens_bhwc = tokens_bhwc + self._drop(mixed)
        return tokens_bhwc + self._drop(self.mlp(self.norm2(tokens_bhwc)))

    def _drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): in training, skip the branch for some pictures."""
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        kept = torch.rand(branch.shape[0], 1, 1, 1, device=branch.device) < keep
        return branch * kept.to(branch.dtype) / keep


class SwinLayer(nn.Module):
    """Residual Swin Transformer block: blocks, a convolution and a residual connection."""

    def __init__(self, blocks: Sequence[SwinBlock], channels: int, resi_connection: str) -> None:
        super().__init__()
        # Nested only for the state-dict keys.
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.conv = residual_convolution(channels, resi_connection)

    def forward(self, tokens_bhwc: Tensor, mask: Tensor | None) -> Tensor:
        inner = tokens_bhwc
        for block in cast("nn.ModuleList", self.residual_group["blocks"]):
            inner = block(inner, mask)
        return self.conv(inner.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + tokens_bhwc


class SwinIR(nn.Module):
    """The restoration network; parameters and state-dict keys are those of basicsr's SwinIR.

    Input (B, in_chans, H, W) in [0, img_range], H and W multiples of `window_size`; output at
    `upscale`; the upsampler '' does not enlarge.
    """

    mean: Tensor

    def __init__(
        self,
        img_size: Annotated[int, Field(ge=1)] = 64,
        in_chans: Annotated[int, Field(ge=1)] = 3,
        embed_dim: Annotated[int, Field(ge=1)] = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: Annotated[int, Field(ge=1)] = 8,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        upscale: Annotated[int, Field(ge=1)] = 2,
        img_range: Annotated[float, Field(gt=0)] = 1.0,
        upsampler: Literal["", "pixelshuffle", "pixelshuffledirect", "nearest+conv"] = "",
        resi_connection: Literal["1conv", "3conv"] = "1conv",
    ) -> None:
        super().__init__()
        self.window, self.upscale, self.img_range = window_size, upscale, img_range
        self.upsampler = upsampler
        mean = DIV2K_MEAN if in_chans == 3 else (0.0,) * in_chans
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, 1, 1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim)})
        shift = window_size // 2 if img_size > window_size else 0
        drops = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.layers = nn.ModuleList(
            SwinLayer(
                [
                    SwinBlock(
                        embed_dim,
                        heads,
                        window_size,
                        shift * (index % 2),
                        mlp_ratio,
                        qkv_bias,
                        next(drops),
                    )
                    for index in range(depth)
                ],
                embed_dim,
                resi_connection,
            )
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_convolution(embed_dim, resi_connection)
        self._add_reconstruction(embed_dim, in_chans)
        self.apply(initialise_linear)
        if upsampler == "pixelshuffledirect" and in_chans == 3 and embed_dim >= SHIFTED_COPIES:
            self._initialise_as_bicubic()
        ignore_on_load(self, is_derived)

    @torch.no_grad()
    def _initialise_as_bicubic(self) -> None:
        """Initialise the network as bicubic enlargement, so that training only adds detail.

        The first convolution copies each colour under nine one-pixel shifts, and the last applies a
        5x5 kernel through them; the body's output starts small.
        """
        first, last = self.conv_first, cast("nn.Conv2d", self.upsample[0])
        first.weight[:SHIFTED_COPIES] = 0.0
        last.weight[:, :SHIFTED_COPIES] = 0.0
        last.weight.mul_(BODY_DAMPING)
        for layer in (first, last):
            cast("Tensor", layer.bias).zero_()
        phases = bicubic_phases(self.upscale)
        for colour in range(3):
            outputs = slice(colour * len(phases), (colour + 1) * len(phases))
            for shift in range(9):
                first.weight[9 * colour + shift, colour, shift // 3, shift % 3] = 1.0
            for down in range(5):
                for right in range(5):
                    row, column = min(max(down - 1, 0), 2), min(max(right - 1, 0), 2)
                    copy = 9 * colour + 3 * row + column
                    last.weight[outputs, copy, down - row, right - column] = phases[:, down, right]
        for parameter in self.conv_after_body.parameters():
            parameter.mul_(BODY_DAMPING)

    def _add_reconstruction(self, channels: int, outputs: int) -> None:
        features = RECONSTRUCTION_FEATURES
        if self.upsampler in ("pixelshuffle", "nearest+conv"):
            self.conv_before_upsample = nn.Sequential(
                nn.Conv2d(channels, features, 3, 1, 1), nn.LeakyReLU(inplace=True)
            )
            self.conv_last = nn.Conv2d(features, outputs, 3, 1, 1)
        if self.upsampler == "pixelshuffle":
            self.upsample = nn.Sequential(*shuffle_steps(self.upscale, features))
        elif self.upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(
                nn.Conv2d(channels, outputs * self.upscale**2, 3, 1, 1),
                nn.PixelShuffle(self.upscale),
            )
        elif self.upsampler == "nearest+conv":
            if self.upscale not in (2, 4):
                raise TypeError("the nearest+conv upsampler only enlarges by 2 or 4")
            self.conv_up1 = nn.Conv2d(features, features, 3, 1, 1)
            if self.upscale == 4:
                self.conv_up2 = nn.Conv2d(features, features, 3, 1, 1)
            self.conv_hr = nn.Conv2d(features, features, 3, 1, 1)
        else:
            self.conv_last = nn.Conv2d(channels, outputs, 3, 1, 1)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        mean = self.mean.to(lr_bchw.dtype)
        centred = (lr_bchw - mean) * self.img_range
        shallow = self.conv_first(centred)
        features = shallow + self.conv_after_body(self._deep(shallow))
        return self._reconstruct(features, centred) / self.img_range + mean

    def _deep(self, shallow: Tensor) -> Tensor:
        height, width = shallow.shape[2:]
        window, shift = (self.window, self.window), (self.window // 2, self.window // 2)
        mask = shift_mask(height, width, window, shift, shallow.device)
        tokens = self.patch_embed["norm"](shallow.permute(0, 2, 3, 1))
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return self.norm(tokens).permute(0, 3, 1, 2)

    def _reconstruct(self, features: Tensor, centred: Tensor) -> Tensor:
        if self.upsampler == "pixelshuffledirect":
            return self.upsample(features)
        if self.upsampler == "":
            return centred + self.conv_last(features)
        features = self.conv_before_upsample(features)
        if self.upsampler == "pixelshuffle":
            return self.conv_last(self.upsample(features))
        features = upsample_and_convolve(self.conv_up1, features)
        if self.upscale == 4:
            features = upsample_and_convolve(self.conv_up2, features)
        return self.conv_last(functional.leaky_relu(self.conv_hr(features), 0.2))


def upsample_and_convolve(layer: nn.Module, features: Tensor) -> Tensor:
    doubled = functional.interpolate(features, scale_factor=2, mode="nearest")
    return functional.leaky_relu(layer(doubled), 0.2)


def _facts(parameters: Parameters) -> ArchFacts:
    window = parameters["window_size"]
    return ArchFacts(
        scale=parameters["upscale"], receptive_field=None, size_multiple=window, window=window
    )


def _from_spandrel(network: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if network.hyperparameters["start_unshuffle"] != 1:
        raise UnsupportedVariant("SwinIR with pixel-unshuffle at its input is not supported")
    names = ("upscale", "in_chans", "img_size", "window_size", "img_range", "depths", "embed_dim")
    names += ("num_heads", "mlp_ratio", "upsampler", "resi_connection")
    parameters = {name: network.hyperparameters[name] for name in names}
    return parameters, without_keys(network.state_dict(), is_derived)


ARCH = Architecture(
    name="swinir",
    network=SwinIR,
    facts=_facts,
    spandrel=SpandrelLayout(id="SwinIR", convert=_from_spandrel),
    scale_parameters=frozenset({"upscale", "upsampler"}),
    weightless_parameters=frozenset({"drop_path_rate", "img_size"}),
    compiled_blocks=(SwinLayer,),
)
