"""Metrics and their protocols; scores of different protocols cannot be compared.

May import image and common.
"""

from superres.quality.channels import luma
from superres.quality.protocol import SSIM_VARIANT, Protocol, ProtocolMismatch, require_same
from superres.quality.psnr import psnr, psnr_of_mse, squared_error
from superres.quality.score import Score, score
from superres.quality.ssim import ssim

__all__ = [
    "SSIM_VARIANT",
    "Protocol",
    "ProtocolMismatch",
    "Score",
    "luma",
    "psnr",
    "psnr_of_mse",
    "require_same",
    "score",
    "squared_error",
    "ssim",
]
