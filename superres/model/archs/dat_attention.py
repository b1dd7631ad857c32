"""The two kinds of attention of DAT (Chen et al. 2023): over windows, and over channels."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.windows import (
    SidesHw,
    from_windows,
    relative_positions,
    shift_mask,
    to_windows,
)

CHANNEL_REDUCTION, SPATIAL_REDUCTION = 8, 16


class PositionBias(nn.Module):
    """A bias per head for each relative position, computed by an MLP from the position."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        hidden = channels // 4
        self.pos_proj = nn.Linear(2, hidden)
        self.pos1 = self._layer(hidden, hidden)
        self.pos2 = self._layer(hidden, hidden)
        self.pos3 = self._layer(hidden, heads)

    def forward(self, offsets: Tensor) -> Tensor:
        hidden = self.pos_proj(offsets)
        return self.pos3(self.pos2(self.pos1(hidden)))

    @staticmethod
    def _layer(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(inputs), nn.ReLU(), nn.Linear(inputs, outputs))


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of (height, width), without projections."""

    offsets: Tensor
    offset_index: Tensor

    def __init__(self, channels: int, heads: int, window: SidesHw) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.scale = (channels // heads) ** -0.5
        self.pos = PositionBias(channels // 4, heads)
        rows, columns = (torch.arange(1 - side, side) for side in window)
        grid = torch.meshgrid(rows, columns, indexing="ij")
        offsets = torch.stack([axis.flatten() for axis in grid], dim=1).float()
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("offset_index", relative_positions(window), persistent=False)

    def forward(self, qkv_bhwc: Tensor, shift: SidesHw) -> Tensor:
        """Queries, keys and values (3, B, H, W, C) to (B, H, W, C)."""
        shape = qkv_bhwc.shape[1:]
        mask = None
        if any(shift):
            back = (-shift[0], -shift[1])
            qkv_bhwc = torch.roll(qkv_bhwc, back, dims=(2, 3))
            mask = shift_mask(shape[1], shape[2], self.window, shift, qkv_bhwc.device)
        query, key, value = (self._heads(to_windows(part, self.window)) for part in qkv_bhwc)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        windows, _, positions, _ = scores.shape
        bias = self.pos(self.offsets.to(scores.dtype))[self.offset_index.reshape(-1)]
        scores = scores + bias.reshape(positions, positions, self.heads).permute(2, 0, 1)
        if mask is not None:
            grouped = scores.reshape(-1, mask.shape[0], self.heads, positions, positions)
            scores = (grouped + mask[None, :, None].to(scores.dtype)).reshape(scores.shape)
        mixed = scores.softmax(dim=-1) @ value
        mixed = mixed.transpose(1, 2).reshape(windows, positions, shape[-1])
        mixed_bhwc = from_windows(mixed, self.window, shape)
        return torch.roll(mixed_bhwc, shift, dims=(1, 2)) if any(shift) else mixed_bhwc

    def _heads(self, windows: Tensor) -> Tensor:
        count, positions, channels = windows.shape
        return windows.reshape(count, positions, self.heads, channels // self.heads).transpose(1, 2)


class AdaptiveAttention(nn.Module):
    """Attention beside a depthwise convolution of the values; each gates the other.

    One gates by channel, from its mean over the picture, the other by position.
    """

    def __init__(self, channels: int, qkv_bias: bool) -> None:
        super().__init__()
        channel, spatial = channels // CHANNEL_REDUCTION, channels // SPATIAL_REDUCTION
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.dwconv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.BatchNorm2d(channels),
            nn.GELU(),
        )
        self.channel_interaction = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channel, 1),
            nn.BatchNorm2d(channel),
            nn.GELU(),
            nn.Conv2d(channel, channels, 1),
        )
        self.spatial_interaction = nn.Sequential(
            nn.Conv2d(channels, spatial, 1),
            nn.BatchNorm2d(spatial),
            nn.GELU(),
            nn.Conv2d(spatial, 1, 1),
        )

    def forward(self, tokens_bhwc: Tensor) -> Tensor:
        batch, height, width, channels = tokens_bhwc.shape
        qkv = self.qkv(tokens_bhwc).reshape(batch, height, width, 3, channels)
        qkv = qkv.permute(3, 0, 1, 2, 4)
        convolved = self.dwconv(qkv[2].permute(0, 3, 1, 2))
        attended = self.attend(qkv).permute(0, 3, 1, 2)
        return self.proj(self.gate(attended, convolved).permute(0, 2, 3, 1))

    def attend(self, qkv_bhwc: Tensor) -> Tensor:
        """Queries, keys and values (3, B, H, W, C) to (B, H, W, C)."""
        raise NotImplementedError

    def gate(self, attended: Tensor, convolved: Tensor) -> Tensor:
        """The gated sum of both, (B, C, H, W)."""
        raise NotImplementedError


class SpatialAttention(AdaptiveAttention):
    """Attention in upright and lying windows, each on half of the channels."""

    def __init__(
        self, channels: int, heads: int, split_size: SidesHw, shift: bool, qkv_bias: bool
    ) -> None:
        super().__init__(channels, qkv_bias)
        rows, columns = split_size
        windows: tuple[SidesHw, ...] = ((rows, columns), (columns, rows))
        self.shifts = tuple((h // 2, w // 2) if shift else (0, 0) for h, w in windows)
        self.attns = nn.ModuleList(
            WindowAttention(channels // 2, heads // 2, window) for window in windows
        )

    def attend(self, qkv_bhwc: Tensor) -> Tensor:
        halves = zip(self.attns, qkv_bhwc.chunk(2, dim=-1), self.shifts, strict=True)
        return torch.cat([attention(half, shift) for attention, half, shift in halves], dim=-1)

    def gate(self, attended: Tensor, convolved: Tensor) -> Tensor:
        by_channel = torch.sigmoid(self.channel_interaction(convolved))
        by_position = torch.sigmoid(self.spatial_interaction(attended))
        return attended * by_channel + convolved * by_position


class ChannelAttention(AdaptiveAttention):
    """Attention of channels to channels, over all positions of the input."""

    def __init__(self, channels: int, heads: int, qkv_bias: bool) -> None:
        super().__init__(channels, qkv_bias)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def attend(self, qkv_bhwc: Tensor) -> Tensor:
        _, batch, height, width, channels = qkv_bhwc.shape
        heads = len(self.temperature)
        parts = qkv_bhwc.reshape(3, batch, height * width, heads, channels // heads)
        query, key, value = parts.permute(0, 1, 3, 4, 2)
        query, key = functional.normalize(query, dim=-1), functional.normalize(key, dim=-1)
        weights = (query @ key.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return (weights @ value).permute(0, 3, 1, 2).reshape(batch, height, width, channels)

    def gate(self, attended: Tensor, convolved: Tensor) -> Tensor:
        by_channel = torch.sigmoid(self.channel_interaction(attended))
        by_position = torch.sigmoid(self.spatial_interaction(convolved))
        return attended * by_position + convolved * by_channel
