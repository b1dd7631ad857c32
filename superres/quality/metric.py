"""What a figure is: a name, which way is better, how exactly it was computed, and the function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.quality.protocol import Protocol

Array = NDArray[Any]


class MetricUnavailable(SharplineError):
    """A figure cannot be measured here; the message says what it lacks and where to get it."""


class NotMeasurable(SharplineError):
    """This picture does not have the figure, mostly because it is too small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a picture (H, W, 3) against its truth, under a protocol.

    `variant` names formula and weights: values of different variants are not compared. `colour`
    figures look at RGB whatever channel is asked for. `compute` raises NotMeasurable.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    variant: str
    compute: Callable[[Array, Array, Protocol], float]
    colour: bool = False
    unit: str = ""

    def gain(self, ours: float, theirs: float) -> float:
        """How much better `ours` is, whichever way is better."""
        return ours - theirs if self.better == "higher" else theirs - ours
