"""A metric: its name, direction, variant and function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.quality.protocol import Protocol

Array = NDArray[Any]


class MetricUnavailable(SharplineError):
    """A metric cannot be computed here; the message says what is missing and where to get it."""


class NotMeasurable(SharplineError):
    """The metric is undefined for this picture, usually because it is too small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric of a picture (H, W, 3) against its ground truth, under a protocol.

    `variant` names formula and weights: values of different variants are not compared. `colour`
    metrics use RGB whatever the protocol's channel. `compute` raises NotMeasurable.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    variant: str
    compute: Callable[[Array, Array, Protocol], float]
    colour: bool = False
    unit: str = ""

    def gain(self, ours: float, theirs: float) -> float:
        """How much better `ours` is; positive if better, for either direction."""
        return ours - theirs if self.better == "higher" else theirs - ours
