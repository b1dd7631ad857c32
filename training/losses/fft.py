"""L1 in the frequency domain (Cho et al. 2021, equation 5)."""

import torch
from torch import Tensor

from training.losses.loss import pixel_loss


def fft(output_bchw: Tensor, hr_bchw: Tensor) -> Tensor:
    """L1 between real and imaginary parts of the spectra."""
    return torch.view_as_real(torch.fft.fft2(output_bchw - hr_bchw)).abs().mean()


LOSS = pixel_loss("fft", fft)
