"""Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.quality.channels import to_protocol
from superres.quality.metric import Metric, NotMeasurable, without_weights
from superres.quality.protocol import Protocol
from superres.quality.window import local_means

Array = NDArray[Any]
Floats = NDArray[np.float64]

VARIANT = "Wang 2003, 5 scales, gaussian-11-1.5"
# Fitted by Wang et al. in a user study, finest scale first.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11
SIGMA = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MIN_SIDE = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1


def ms_ssim(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
    """Contrast and structure at five scales, luminance at the coarsest; 1 is equal.

    The mean over channels. Raises NotMeasurable if a side is shorter than MIN_SIDE pixels inside
    the border crop: the coarsest scale would be smaller than the window.
    """
    test, truth = to_protocol(test_hwc, protocol), to_protocol(truth_hwc, protocol)
    if min(test.shape[:2]) < MIN_SIDE:
        raise NotMeasurable(
            f"MS-SSIM needs sides of {MIN_SIDE} pixels inside the border crop of "
            f"{protocol.border}; this picture leaves {test.shape[1]}x{test.shape[0]}"
        )
    channels = range(test.shape[2])
    return float(np.mean([_of_channel(test[..., each], truth[..., each]) for each in channels]))


def _of_channel(test_hw: Floats, truth_hw: Floats) -> float:
    result = 1.0
    for number, weight in enumerate(WEIGHTS, start=1):
        luminance, contrast_structure = _components(test_hw, truth_hw)
        value = contrast_structure
        if number == len(WEIGHTS):
            value = luminance * contrast_structure
        # A negative mean (inverted structure) has no real power; it counts as 0.
        result *= max(float(value.mean()), 0.0) ** weight
        test_hw, truth_hw = _halved(test_hw), _halved(truth_hw)
    return result


def _components(test_hw: Floats, truth_hw: Floats) -> tuple[Floats, Floats]:
    """Luminance, and contrast times structure, at every position where the window fits."""
    test_mean, truth_mean = _windowed(test_hw), _windowed(truth_hw)
    test_variance = _windowed(test_hw**2) - test_mean**2
    truth_variance = _windowed(truth_hw**2) - truth_mean**2
    covariance = _windowed(test_hw * truth_hw) - test_mean * truth_mean
    luminance = (2 * test_mean * truth_mean + C1) / (test_mean**2 + truth_mean**2 + C1)
    contrast_structure = (2 * covariance + C2) / (test_variance + truth_variance + C2)
    return luminance, contrast_structure


def _windowed(values_hw: Floats) -> Floats:
    return local_means(values_hw, WINDOW, SIGMA, edges=False)


def _halved(values_hw: Floats) -> Floats:
    """2x2 mean pooling; a last odd row or column is mirrored, as Wang's code does."""
    rows, columns = values_hw.shape
    even = np.pad(values_hw, ((0, rows % 2), (0, columns % 2)), mode="symmetric")
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


METRIC = without_weights(
    Metric(name="ms_ssim", title="MS-SSIM", better="higher", variant=VARIANT, compute=ms_ssim)
)
