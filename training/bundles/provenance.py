"""Provenance and training cost of weights, as stated in their bundle."""

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
    """Initial weights, their network, and the lineage that the trained model inherits.

    `id` identifies the exact bytes; `bundle_id` is None for weights from a file. `licences` are
    the licences of the whole lineage, `weights_licence` is that of the weights (None: not
    stated).
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
    """The origin of trained weights: `parent` are the initial weights, `start` reports which of
    their tensors were loaded."""

    recipe: Recipe
    profile: Profile
    dataset: Path
    info: DatasetInfo
    parent: InitialWeights | None
    start: str | None
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """Steps and seconds of the training."""

    steps: int
    seconds: float
