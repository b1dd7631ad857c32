"""Pictures for the HTML report: PNG data URIs and error maps."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.image.codecs import Picture, encode

Array = NDArray[Any]

ERROR_LEVELS = 48.0  # the brightest colour of an error map, in grey levels of 255
MAP_SIDE = 720  # a larger map is shrunk by max pooling
# Black over purple and orange to pale yellow: a colour-blind-safe map of increasing lightness.
COLOURS = np.array(
    [(0, 0, 4), (60, 15, 110), (140, 40, 105), (220, 80, 60), (250, 160, 40), (252, 255, 190)]
)


def data_uri(rgb_hwc: Array) -> str:
    """A picture as a data URI."""
    pixels = rgb_hwc
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    png = encode(Picture(rgb_hwc=np.ascontiguousarray(pixels)), "png")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def error_map(test_hwc: Array, truth_hwc: Array) -> Array:
    """Mean absolute difference over channels as colours, (H, W, 3) uint8."""
    top = np.iinfo(test_hwc.dtype).max
    difference = np.abs(test_hwc.astype(np.float64) - truth_hwc.astype(np.float64))
    return coloured(difference.mean(axis=2) * 255.0 / top, ERROR_LEVELS)


def coloured(levels_hw: Array, brightest: float) -> Array:
    """Levels from 0 to `brightest` as colours, (H, W, 3) uint8."""
    share = np.clip(levels_hw / brightest, 0.0, 1.0) if brightest > 0 else np.zeros_like(levels_hw)
    stops = np.linspace(0.0, 1.0, len(COLOURS))
    channels = [np.interp(share, stops, COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def small_map(levels_hw: Array) -> Array:
    """Shrink a map to at most MAP_SIDE by max pooling, so that no seam is lost."""
    step = -(-max(levels_hw.shape) // MAP_SIDE)
    rows, columns = (-side % step for side in levels_hw.shape)
    padded = np.pad(levels_hw, ((0, rows), (0, columns)))
    height, width = padded.shape[0] // step, padded.shape[1] // step
    return padded.reshape(height, step, width, step).max(axis=(1, 3))
