"""Pictures in the channel, crop and range of a protocol."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.quality.protocol import Protocol

Array = NDArray[Any]

# ITU-R BT.601 luma of 8-bit studio range, the "Y channel" of super-resolution papers.
LUMA = np.array([65.481, 128.553, 24.966])
LUMA_OFFSET = 16.0


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
