"""JPEG damage: encode at a quality and decode again."""

import numpy as np
import numpy.typing as npt

from superres.image import Picture, decode, encode


def compress(rgb_hwc_u8: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """The picture after one pass through a JPEG encoder at `quality` (1 to 95)."""
    return decode(encode(Picture(rgb_hwc=rgb_hwc_u8), "jpeg", quality=quality)).rgb_hwc
