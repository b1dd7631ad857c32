"""What a degradation hands back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded:
    """The low-resolution picture (h, w, 3) uint8 and, as plain JSON values, what made it.

    `damage_hw_u8` (h, w) is 255 where the scene is lost and must be filled in, and None where a
    degradation destroys nothing locally.
    """

    lr_hwc_u8: Pixels
    parameters: dict[str, Any]
    damage_hw_u8: Pixels | None = None
