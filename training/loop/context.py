"""What the training loop is handed besides its recipe and data, and what comes out of it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from superres.common.errors import SharplineError
from training.loop.distributed import DistributedContext


class TrainingDiverged(SharplineError):
    """A loss or the gradient is no longer a number."""


class Tracker(Protocol):
    """Whoever is told how the training goes; must neither raise nor wait."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopContext:
    """What the loop is handed besides its recipe and data.

    `validate` gets the averaged weights and the step, and returns the score in dB that an early
    stop goes by (None: there is none); rank 0 alone calls it. `clock` counts seconds.
    """

    folder: Path
    tracker: Tracker
    validate: Callable[[Mapping[str, Tensor], int], float | None]
    device: torch.device
    distributed: DistributedContext = field(default_factory=DistributedContext)
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What came out: averaged weights by state-dict key, on the CPU. `exact`: the same training
    gives these bits again, broken off and resumed or not."""

    weights: dict[str, Tensor]
    steps: int
    seconds: float
    exact: bool
