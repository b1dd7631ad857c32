"""What the page shows: the crops of a picture, and where tiles change an answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.evaluation.scorecard import PictureCard

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportExample:
    """The telling crop of one picture: (side, side, 3) each, the input enlarged by repetition."""

    card: PictureCard
    input_hwc: Array
    bicubic_hwc: Array
    model_hwc: Array
    truth_hwc: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """Where tiles change the answer of one picture, in grey levels: (H, W)."""

    name: str
    levels_hw: NDArray[np.float32]
