"""Where weights come from, and what they cost: what a bundle says of its making."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from superres.dataset.manifest import DatasetInfo
from superres.model.bundle import Arch, Dataset
from training.recipe import Profile, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """Weights to start from, their network, and what they inherit to whatever they become.

    `id` names the exact bytes; `bundle_id` is None for weights that came as a file. `licences` is
    what `datasets` does not say: the terms under which the weights themselves were published.
    """

    name: str
    id: str
    bundle_id: str | None
    arch: Arch
    weights: Mapping[str, NDArray[Any]]
    datasets: tuple[Dataset, ...]
    licences: tuple[str, ...]
    weights_licence: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where weights come from: `parent` is what the training started from, `start` what it took
    over from there."""

    recipe: Recipe
    profile: Profile
    dataset: Path
    info: DatasetInfo
    parent: InitialWeights | None
    start: str | None
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """How long the weights were trained."""

    steps: int
    seconds: float
