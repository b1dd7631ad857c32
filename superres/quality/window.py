"""Gaussian-weighted local means, shared by MS-SSIM and NIQE."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def local_means(values_hw: Floats, width: int, sigma: float, *, edges: bool) -> Floats:
    """Local means under a Gaussian window of `width` (odd) pixels.

    With `edges` the border is replicated and the size stays (H, W); without, only positions where
    the window fits are computed: (H - width + 1, W - width + 1).
    """
    offsets = np.arange(width) - width // 2
    taps = np.exp(-(offsets**2) / (2 * sigma**2))
    taps /= taps.sum()
    if edges:
        values_hw = np.pad(values_hw, width // 2, mode="edge")
    for axis in (0, 1):
        values_hw = np.lib.stride_tricks.sliding_window_view(values_hw, width, axis=axis) @ taps
    return values_hw
