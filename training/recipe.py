"""Recipes: complete YAML files. Every key is required, unknown keys are refused."""

from difflib import get_close_matches
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from superres.common.errors import UsageError
from superres.degrade import Mix, parse

Profile = Literal["full", "finetune", "smoke"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Arch(_Strict):
    """A network of superres.model.archs and its constructor arguments."""

    name: str
    parameters: dict[str, int | float | bool | str | list[int]]


class PixelLoss(_Strict):
    """A distance between output and ground truth per pixel (fft: per frequency)."""

    name: Literal["l1", "charbonnier", "mse", "fft"]
    weight: float = Field(gt=0)


class PerceptualLoss(_Strict):
    """L1 distance between VGG19 features before the activation; `layers` maps layers to weights.

    `vgg` is the path of torchvision's weight file; null uses SHARPLINE_VGG19.
    """

    name: Literal["perceptual"]
    weight: float = Field(gt=0)
    layers: dict[str, float] = Field(min_length=1)
    vgg: str | None


class GanLoss(_Strict):
    """Adversarial loss: vanilla or relativistic average (as in ESRGAN)."""

    name: Literal["gan"]
    weight: float = Field(gt=0)
    kind: Literal["vanilla", "relativistic"]


class LdlLoss(_Strict):
    """L1 weighted by artefact likelihood, which the EMA network's output helps to estimate (Liang
    et al. 2022)."""

    name: Literal["ldl"]
    weight: float = Field(gt=0)


Loss = Annotated[PixelLoss | PerceptualLoss | GanLoss | LdlLoss, Field(discriminator="name")]


class Discriminator(_Strict):
    """A discriminator of basicsr and its learning rate, which follows the same schedule."""

    name: Literal["unet", "vgg"]
    parameters: dict[str, int | bool]
    learning_rate: float = Field(gt=0, le=1)


class Optimizer(_Strict):
    """The optimizer of the generator and of the discriminator, if any."""

    name: Literal["adam", "adamw"]
    betas: list[float] = Field(min_length=2, max_length=2)
    weight_decay: float = Field(ge=0)


class Cosine(_Strict):
    """Half a cosine from the learning rate down to the fraction `final` of it."""

    name: Literal["cosine"]
    final: float = Field(gt=0, lt=1, description="fraction of the learning rate")


class MultiStep(_Strict):
    """The learning rate is multiplied by `factor` at each milestone; no milestones: constant."""

    name: Literal["multistep"]
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        description="fractions of the stage"
    )
    factor: float = Field(gt=0, lt=1)


Schedule = Annotated[Cosine | MultiStep, Field(discriminator="name")]


class Patch(_Strict):
    """The side of an LR crop in pixels, starting at the fraction `since` of the stage."""

    since: float = Field(ge=0, lt=1)
    side: int = Field(gt=0)


class EarlyStop(_Strict):
    """Stop after `patience` validations in a row without a gain of `min_gain` dB on the best."""

    patience: int = Field(gt=0)
    min_gain: float = Field(ge=0)


class Stage(_Strict):
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


class Recipe(_Strict):
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
            f"no recipe {name_or_path!r}; available: {', '.join(recipe_names())}, "
            "or give a YAML file"
        )
    text = resources.files("training").joinpath(f"recipes/{name_or_path}.yaml").read_text("utf-8")
    return parse_recipe(text, origin=name_or_path)


def parse_recipe(text: str, *, origin: str) -> Recipe:
    """Parse a recipe from YAML text; `origin` names it in errors."""
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {origin} is not YAML: {error}") from error
    except ValidationError as error:
        raise UsageError(f"recipe {origin}: {_describe_error(error)}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} cannot be read as text: {error}") from error


def _describe_error(error: ValidationError) -> str:
    """One key and its error. Unknown keys come first: a misspelt key is also reported missing."""
    errors = error.errors()
    first = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    *parents, last = first["loc"] or ("",)
    key = ".".join(map(str, first["loc"]))
    if not key and first["type"] == "model_type":
        return "it is not a mapping of keys to values; see docs/training.md for the keys"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        missing = [
            str(each["loc"][-1])
            for each in errors
            if each["type"] == "missing" and [*each["loc"][:-1]] == parents
        ]
        suggestions = get_close_matches(str(last), missing, n=1)
        return f"{key} is not a recipe key" + (
            f"; {suggestions[0]} is missing" if suggestions else ""
        )
    reason = first["msg"].removeprefix("Value error, ")
    return f"{key or 'the recipe'} is invalid: {reason}"
