"""Windows of window attention; the sides of pictures are multiples of the window's."""

from collections.abc import Sequence

import torch
from torch import Tensor

SidesHw = tuple[int, int]


def to_windows(tokens_bhwc: Tensor, window: SidesHw) -> Tensor:
    """(B, H, W, C) -> (B * windows, positions of a window, C)."""
    batch, height, width, channels = tokens_bhwc.shape
    rows, columns = window
    grid = tokens_bhwc.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, channels)


def from_windows(windows: Tensor, window: SidesHw, shape_bhwc: Sequence[int]) -> Tensor:
    """Undo `to_windows` for a tensor of shape (B, H, W, C)."""
    batch, height, width, channels = shape_bhwc
    rows, columns = window
    grid = windows.reshape(batch, height // rows, width // columns, rows, columns, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


def relative_positions(window: SidesHw) -> Tensor:
    """For each pair of positions, the index of their offset: (positions, positions).

    Offsets are counted row by row, from (1 - height, 1 - width) to (height - 1, width - 1).
    """
    rows, columns = window
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    positions = torch.stack([axis.flatten() for axis in grid])
    offset = positions[:, :, None] - positions[:, None, :]
    return (offset[0] + rows - 1) * (2 * columns - 1) + offset[1] + columns - 1


def shift_mask(
    height: int, width: int, window: SidesHw, shift: SidesHw, device: torch.device | None = None
) -> Tensor:
    """-100 between positions that the cyclic shift wrapped from opposite borders, else 0.

    Shape (windows, positions, positions). Created on the device: a copy from the host would
    synchronise, and a CUDA graph cannot capture it.
    """

    def bands(length: int, side: int, shifted: int) -> Tensor:
        positions = torch.arange(length, device=device)
        return (positions >= length - side).long() + (positions >= length - shifted).long()

    down, right = bands(height, window[0], shift[0]), bands(width, window[1], shift[1])
    regions = down[:, None] * 3 + right[None, :]
    labels = to_windows(regions[None, :, :, None].float(), window).squeeze(-1)
    return (labels[:, :, None] != labels[:, None, :]).float() * -100.0
