"""Recipes: complete YAML files. Every key is required, unknown keys are refused."""

from collections.abc import Callable, Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from superres.common.errors import UsageError
from superres.common.names import unknown_name
from superres.common.registry import EntryRegistry
from superres.common.strict import StrictModel, describe
from superres.degrade import Mix, parse
from training.losses import LOSSES
from training.losses.loss import LossSettings
from training.optimizers import OPTIMIZERS
from training.optimizers.optimizer import OptimizerSettings

Profile = Literal["full", "finetune", "smoke"]


def _registered(registry: EntryRegistry[Any]) -> Callable[[object], object]:
    """A validator that parses a mapping by the settings of the registered entry that it names."""

    def parse_settings(value: object) -> object:
        if not isinstance(value, Mapping) or "name" not in value:
            raise ValueError(f"write {{name: NAME, ...}}; available: {registry.listed()}")
        try:
            entry = registry.get(str(value["name"]))
        except UsageError as error:
            raise ValueError(str(error)) from error
        return entry.settings.parse(value)

    return parse_settings


class Arch(StrictModel):
    """A network of superres.model.archs and its constructor arguments."""

    name: str
    parameters: dict[str, JsonValue]


Loss = Annotated[SerializeAsAny[LossSettings], BeforeValidator(_registered(LOSSES))]
Optimizer = Annotated[SerializeAsAny[OptimizerSettings], BeforeValidator(_registered(OPTIMIZERS))]


class Discriminator(StrictModel):
    """A discriminator of basicsr and its learning rate, which follows the same schedule."""

    name: Literal["unet", "vgg"]
    parameters: dict[str, int | bool]
    learning_rate: float = Field(gt=0, le=1)


class Cosine(StrictModel):
    """Half a cosine from the learning rate down to the fraction `final` of it."""

    name: Literal["cosine"]
    final: float = Field(gt=0, lt=1, description="fraction of the learning rate")


class MultiStep(StrictModel):
    """The learning rate is multiplied by `factor` at each milestone; no milestones: constant."""

    name: Literal["multistep"]
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        description="fractions of the stage"
    )
    factor: float = Field(gt=0, lt=1)


Schedule = Annotated[Cosine | MultiStep, Field(discriminator="name")]


class Patch(StrictModel):
    """The side of an LR crop in pixels, starting at the fraction `since` of the stage."""

    since: float = Field(ge=0, lt=1)
    side: int = Field(gt=0)


class EarlyStop(StrictModel):
    """Stop after `patience` validations in a row without a gain of `min_gain` dB on the best."""

    patience: int = Field(gt=0)
    min_gain: float = Field(ge=0)


class Stage(StrictModel):
    """Length, batch size and learning rate of a training; it ends at `steps` or `max_minutes`.

    With a time limit the schedule follows the clock where the clock is ahead of the steps, so the
    learning rate always decays fully; such a stage is not bit-reproducible. `micro_batch` is the
    number of crops per forward pass (null: the whole batch); gradients are accumulated.
    """

    steps: int = Field(gt=0)
    max_minutes: float | None = Field(gt=0)
    batch: int = Field(gt=0)
    micro_batch: int | None = Field(gt=0)
    patches: list[Patch] = Field(min_length=1)
    learning_rate: float = Field(gt=0, le=1)
    warmup_steps: int = Field(ge=0)
    validate_every: int = Field(gt=0)
    checkpoint_every: int = Field(gt=0)
    early_stop: EarlyStop | None

    @model_validator(mode="after")
    def _check_consistency(self) -> "Stage":
        if self.patches[0].since != 0:
            raise ValueError("`since` of the first of `patches` must be 0.0")
        if any(later.since <= sooner.since for sooner, later in pairwise(self.patches)):
            raise ValueError("`patches` must be in ascending order of `since`")
        if self.warmup_steps >= self.steps:
            raise ValueError("`warmup_steps` must be less than `steps`")
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError("`micro_batch` must be at most `batch`")
        return self

    def patch(self, progress: float) -> int:
        """The side of an LR crop at a fraction of the stage."""
        return next(patch.side for patch in reversed(self.patches) if patch.since <= progress)


def _check_degradation(value: object) -> object:
    """Validate the degradation here, so that the error names its key."""
    if isinstance(value, str | dict):
        try:
            parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
    return value


class Recipe(StrictModel):
    """All hyperparameters of a training; everything but the data.

    `degradation` makes new LR crops in every step; null uses the dataset's LR pictures. Up to
    `max_nan_skips` steps in a row may be skipped for a non-finite loss or gradient; one more ends
    the training.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    task: Literal["super-resolution", "restoration"]
    scale: Literal[1, 2, 3, 4, 8]
    arch: Arch
    losses: list[Loss] = Field(min_length=1)
    discriminator: Discriminator | None
    degradation: Annotated[str | dict[str, float] | None, BeforeValidator(_check_degradation)]
    optimizer: Optimizer
    schedule: Schedule
    ema_decay: float = Field(ge=0, lt=1)
    gradient_clip: float = Field(gt=0, description="maximum total norm of the gradients")
    max_nan_skips: int = Field(ge=0)
    precision: Literal["bf16", "fp32"]
    channels_last: bool
    compile: bool
    cuda_graphs: bool
    seed: int = Field(ge=0)
    full: Stage
    finetune: Stage
    smoke: Stage

    @model_validator(mode="after")
    def _check_consistency(self) -> "Recipe":
        names = [loss.name for loss in self.losses]
        if len(set(names)) < len(names):
            raise ValueError("each loss may be listed only once in `losses`")
        if ("gan" in names) != (self.discriminator is not None):
            raise ValueError("`discriminator` and the loss gan require each other")
        for name in names:
            if LOSSES.get(name).needs_discriminator and self.discriminator is None:
                raise ValueError(f"the loss {name} needs a `discriminator` and the loss gan")
        if self.task == "super-resolution" and self.scale == 1:
            raise ValueError("`task` must be restoration if `scale` is 1")
        if self.cuda_graphs and not self.compile:
            raise ValueError("`cuda_graphs` needs `compile: true`")
        return self

    def stage(self, profile: Profile) -> Stage:
        """The stage of a profile."""
        return {"full": self.full, "finetune": self.finetune, "smoke": self.smoke}[profile]

    def mix(self) -> Mix | None:
        """The online degradation, None if the dataset's LR pictures are used."""
        return None if self.degradation is None else parse(self.degradation)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return self.model_dump(mode="json")


def recipe_names() -> list[str]:
    """The names of the bundled recipes."""
    folder = resources.files("training") / "recipes"
    return sorted(
        path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml")
    )


def load_recipe(name_or_path: str) -> Recipe:
    """Load a recipe by name or from a YAML file.

    Raises UsageError naming the key that is unknown, missing or out of range.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"there is no recipe file {path}")
        return parse_recipe(_read_text(path), origin=str(path))
    if name_or_path not in recipe_names():
        raise UsageError(
            unknown_name("recipe", name_or_path, recipe_names(), ", or the path of a YAML file")
        )
    text = resources.files("training").joinpath(f"recipes/{name_or_path}.yaml").read_text("utf-8")
    return parse_recipe(text, origin=name_or_path)


def parse_recipe(text: str, *, origin: str) -> Recipe:
    """Parse a recipe from YAML text; `origin` names it in errors."""
    try:
        return Recipe.parse(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {origin} is not YAML: {error}") from error
    except ValidationError as error:
        raise UsageError(f"recipe {origin}: {_describe(error)}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} cannot be read as text: {error}") from error


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    if not first["loc"] and first["type"] == "model_type":
        return "it is not a mapping of keys to values; see docs/training.md for the keys"
    return describe(error, Recipe, "recipe key")
