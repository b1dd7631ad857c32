"""PSNR and SSIM of a picture under one protocol."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from superres.quality.protocol import Protocol, require_same
from superres.quality.psnr import psnr
from superres.quality.ssim import ssim

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """PSNR in dB and SSIM in [-1, 1] under one protocol."""

    protocol: Protocol
    psnr: float
    ssim: float

    def gain_over(self, other: "Score") -> float:
        """PSNR of this score minus the other's, in dB. Raises ProtocolMismatch."""
        require_same(self.protocol, other.protocol)
        return self.psnr - other.psnr


def score(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> Score:
    """PSNR and SSIM of two (H, W, 3) pictures of the protocol's bit depth."""
    return Score(
        protocol=protocol,
        psnr=psnr(test_hwc, truth_hwc, protocol),
        ssim=ssim(test_hwc, truth_hwc, protocol),
    )
