"""Metrics and their protocols; scores of different protocols cannot be compared.

May import image and common.
"""

from superres.quality.protocol import SSIM_VARIANT, Protocol, ProtocolMismatch, require_same
from superres.quality.psnr_ssim import Score, luma, psnr, psnr_of_mse, score, squared_error, ssim

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
