"""PSNR and SSIM as in the super-resolution literature."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.quality.protocol import Protocol, require_same

Array = NDArray[Any]

# ITU-R BT.601 luma of 8-bit studio range, the "Y channel" of super-resolution papers.
LUMA = np.array([65.481, 128.553, 24.966])
LUMA_OFFSET = 16.0


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


def psnr(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    test, truth = to_protocol(test_hwc, protocol), to_protocol(truth_hwc, protocol)
    return psnr_of_mse(float(np.mean((test - truth) ** 2)))


def psnr_of_mse(mse: float) -> float:
    """PSNR in dB of a mean squared error on the 0 to 255 range."""
    return float("inf") if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def squared_error(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> NDArray[np.float64]:
    """Squared error per cropped pixel, averaged over channels: (H, W), on the 0 to 255 range."""
    difference = to_protocol(test_hwc, protocol) - to_protocol(truth_hwc, protocol)
    return np.mean(difference**2, axis=2)


def ssim(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5, per channel.

    Raises SharplineError for pictures smaller than the window after cropping.
    """
    # scikit-image has no type annotations, and its return type depends on the options.
    from skimage.metrics import (
        structural_similarity,  # pyright: ignore[reportUnknownVariableType]
    )

    test, truth = to_protocol(test_hwc, protocol), to_protocol(truth_hwc, protocol)
    if min(test.shape[:2]) < 11:
        raise SharplineError(
            f"SSIM needs at least 11x11 pixels inside the border crop of {protocol.border}; "
            f"this picture leaves {test.shape[1]}x{test.shape[0]}"
        )
    value = structural_similarity(  # pyright: ignore[reportUnknownVariableType] - likewise
        test,
        truth,
        data_range=255.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(cast(float, value))


def luma(rgb_hwc_255: NDArray[np.float64]) -> NDArray[np.float64]:
    """BT.601 luma, integers from 16 to 235, of RGB on the 0 to 255 range: (H, W, 1).

    Rounded because MATLAB's rgb2ycbcr, which the published tables use, rounds 8-bit pictures;
    unrounded luma scores about 0.01 dB and 0.001 higher.
    """
    return np.floor(rgb_hwc_255 @ LUMA / 255.0 + LUMA_OFFSET + 0.5)[..., None]


def to_protocol(picture_hwc: Array, protocol: Protocol) -> NDArray[np.float64]:
    """Crop a picture and convert it to the protocol's channel, 0 to 255: (H, W, 1 or 3)."""
    values = to_255(picture_hwc, protocol)
    if protocol.channel == "y":
        values = luma(values)
    border = protocol.border
    return values[border : values.shape[0] - border, border : values.shape[1] - border]


def to_255(picture_hwc: Array, protocol: Protocol) -> NDArray[np.float64]:
    """Scale a picture of the protocol's bit depth to the 0 to 255 range."""
    values = picture_hwc.astype(np.float64)
    if protocol.bit_depth != 8:
        values *= 255.0 / (2**protocol.bit_depth - 1)
    return values
