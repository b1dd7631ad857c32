"""A metric (name, direction, variant and function), and the entry that its module registers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.common.registry import check_fields
from superres.quality.protocol import Protocol

Array = NDArray[Any]

WEIGHTS_VARIABLE = "SHARPLINE_METRIC_WEIGHTS"


class MetricUnavailable(SharplineError):
    """A metric cannot be computed here; the message says what is missing and where to get it."""


class NotMeasurable(SharplineError):
    """The metric is undefined for this picture, usually because it is too small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric of a picture (H, W, 3) against its ground truth, under a protocol.

    `variant` names formula and weights: values of different variants are not compared. `colour`
    metrics use RGB whatever the protocol's channel. `compute` raises NotMeasurable. `decimals` is
    the number of decimals to show.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    variant: str
    compute: Callable[[Array, Array, Protocol], float]
    colour: bool = False
    unit: str = ""
    decimals: int = 4

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise ValueError(f"`better` must be higher or lower, not {self.better!r}")
        check_fields(self, functions=("compute",))

    def gain(self, ours: float, theirs: float) -> float:
        """How much better `ours` is; positive if better, for either direction."""
        return ours - theirs if self.better == "higher" else theirs - ours


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityMetric:
    """A registered metric. `load` takes the folder of metric weights, None if there is none, and
    raises MetricUnavailable saying what is missing and where to get it.
    """

    name: str
    load: Callable[[Path | None], Metric]

    def __post_init__(self) -> None:
        check_fields(self, functions=("load",))


def without_weights(metric: Metric) -> QualityMetric:
    """The entry of a metric that needs no files."""
    return QualityMetric(name=metric.name, load=lambda weights: metric)


def weights_needed(title: str, weights: Path | None) -> Path:
    """The folder of weights, for LPIPS and DISTS, whose weights do not ship with the project."""
    if weights is None:
        raise MetricUnavailable(
            f"{title} needs its authors' weights: set their folder with --weights or "
            f"{WEIGHTS_VARIABLE}; docs/evaluation.md lists the files and their addresses"
        )
    return weights
