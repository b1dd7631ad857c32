"""Bicubic enlargement as a fixed convolution, for networks whose input is the enlarged picture."""

import torch
from torch import Tensor, nn
from torch.nn import functional

REACH = 2  # of the cubic kernel on either side, in low-resolution pixels


class BicubicUpsample(nn.Module):
    """Keys' cubic convolution (a = -0.5, MATLAB's), borders replicated, by an integer factor."""

    phases: Tensor

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("phases", bicubic_phases(scale)[:, None], persistent=False)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        batch, channels, height, width = lr_bchw.shape
        padded = functional.pad(lr_bchw, (REACH,) * 4, mode="replicate")
        planes = padded.reshape(batch * channels, 1, height + 2 * REACH, width + 2 * REACH)
        enlarged = functional.pixel_shuffle(
            functional.conv2d(planes, self.phases.to(planes.dtype)), self.scale
        )
        return enlarged.reshape(batch, channels, height * self.scale, width * self.scale)


def nearest_channels(lr_bchw: Tensor, scale: int) -> Tensor:
    """The channels that a pixel shuffle by `scale` turns into the nearest-neighbour enlargement.

    Networks add these before their pixel shuffle: the same sum without an interpolation, which
    runtimes would compute in bfloat16 while they keep this sum in float32.
    """
    return lr_bchw[:, :, None].expand(-1, -1, scale**2, -1, -1).flatten(1, 2)


def bicubic_phases(scale: int) -> Tensor:
    """The 5x5 kernel of each output pixel inside an input pixel: (scale^2, 5, 5), rows first."""
    offsets = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    kernel = cubic(offsets[:, None] - taps[None, :])
    return torch.einsum("iy,jx->ijyx", kernel, kernel).reshape(scale * scale, 5, 5).float()


def cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel (1981, equation 15) with a = -0.5."""
    d = distance.abs()
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return torch.where(d <= 1, near, torch.where(d <= 2, far, torch.zeros_like(d)))
