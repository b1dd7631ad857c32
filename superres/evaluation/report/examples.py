"""The example crops and the seam map of the HTML report."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.evaluation.scorecard import PictureCard

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportExample:
    """The crop of one picture: (side, side, 3) each, the input enlarged by repetition."""

    card: PictureCard
    input_hwc: Array
    bicubic_hwc: Array
    model_hwc: Array
    truth_hwc: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """Difference of tiled and whole-picture inference on one picture, in grey levels: (H, W)."""

    name: str
    levels_hw: NDArray[np.float32]
