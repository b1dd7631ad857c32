"""Dependencies and result of the training loop."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from superres.common.errors import SharplineError
from training.bundles.held_out_crops import HeldOutCrops
from training.loop.distributed import DistributedContext


class TrainingDiverged(SharplineError):
    """A loss or gradient became non-finite."""


class Tracker(Protocol):
    """Receives training metrics; must neither raise nor block."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of one step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopContext:
    """Dependencies of the loop besides its recipe and data.

    `validate` takes the EMA weights and the step and returns the score for early stopping in dB
    (None: no score); `crops` are scored for progress lines; only rank 0 uses both. `clock` returns
    seconds.
    """

    folder: Path
    tracker: Tracker
    validate: Callable[[Mapping[str, Tensor], int], float | None]
    device: torch.device
    crops: HeldOutCrops | None = None
    distributed: DistributedContext = field(default_factory=DistributedContext)
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """EMA weights by state-dict key, on the CPU.

    `repeatable`: training again, resumed or not, gives bit-identical weights.
    """

    weights: dict[str, Tensor]
    steps: int
    seconds: float
    repeatable: bool
