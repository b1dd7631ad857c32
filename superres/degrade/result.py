"""The result of a degradation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded:
    """The low-resolution picture (h, w, 3) uint8 and the drawn parameters as JSON values.

    `damage_hw_u8` (h, w) is 255 where the scene is lost and must be inpainted; None for a
    degradation without local damage.
    """

    lr_hwc_u8: Pixels
    parameters: dict[str, Any]
    damage_hw_u8: Pixels | None = None
