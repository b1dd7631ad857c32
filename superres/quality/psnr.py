"""PSNR as in the super-resolution literature."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.quality.channels import to_protocol
from superres.quality.metric import Metric, without_weights
from superres.quality.protocol import Protocol

Array = NDArray[Any]


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


PSNR = Metric(
    name="psnr",
    title="PSNR",
    better="higher",
    variant="8-bit peak",
    compute=psnr,
    unit="dB",
    decimals=2,
)
METRIC = without_weights(PSNR)
