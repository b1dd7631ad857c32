"""A smooth L1 (Charbonnier et al. 1994)."""

import torch
from torch import Tensor

from training.losses.loss import pixel_loss

EPSILON = 1e-3


def charbonnier(output_bchw: Tensor, hr_bchw: Tensor) -> Tensor:
    """The mean of sqrt(x^2 + epsilon^2)."""
    return torch.sqrt((output_bchw - hr_bchw) ** 2 + EPSILON**2).mean()


LOSS = pixel_loss("charbonnier", charbonnier)
