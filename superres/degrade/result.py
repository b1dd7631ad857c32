"""The result of a degradation."""

import json
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


def check_degraded(degraded: Degraded, size: tuple[int, int]) -> None:
    """Raise TypeError or ValueError unless picture and mask have this size (height, width) and are
    uint8, and the parameters are JSON values."""
    if not isinstance(degraded, Degraded):
        raise TypeError(f"it returned {type(degraded).__name__}, not Degraded")
    mask = degraded.damage_hw_u8
    for name, pixels, shape in (
        ("lr_hwc_u8", degraded.lr_hwc_u8, (*size, 3)),
        *(() if mask is None else (("damage_hw_u8", mask, size),)),
    ):
        if pixels.dtype != np.uint8 or pixels.shape != shape:
            raise ValueError(
                f"its `{name}` is {pixels.dtype} of shape {pixels.shape}, not uint8 of {shape}"
            )
    json.dumps(degraded.parameters)
