"""A recipe: one complete YAML file, nothing inherited, nothing unknown, nothing left out."""

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
    """A network of superres.model.archs and its constructor's arguments."""

    name: str
    parameters: dict[str, int | float | bool | str | list[int]]


class PixelLoss(_Strict):
    """A distance of output and truth, pixel by pixel (fft: frequency by frequency)."""

    name: Literal["l1", "charbonnier", "mse", "fft"]
    weight: float = Field(gt=0)


class PerceptualLoss(_Strict):
    """L1 distance of VGG19's features before the activation, by layer and its weight.

    `vgg` is torchvision's weight file; null takes the one that SHARPLINE_VGG19 names.
    """

    name: Literal["perceptual"]
    weight: float = Field(gt=0)
    layers: dict[str, float] = Field(min_length=1)
    vgg: str | None


class GanLoss(_Strict):
    """What the discriminator says: by itself (vanilla), or of output against truth (relativistic
    average, as in ESRGAN)."""

    name: Literal["gan"]
    weight: float = Field(gt=0)
    kind: Literal["vanilla", "relativistic"]


class LdlLoss(_Strict):
    """L1 where artefacts are likely (Liang et al. 2022), told by comparing with the average."""

    name: Literal["ldl"]
    weight: float = Field(gt=0)


Loss = Annotated[PixelLoss | PerceptualLoss | GanLoss | LdlLoss, Field(discriminator="name")]


class Discriminator(_Strict):
    """A network of basicsr that tells truth from output, and its rate; it follows the schedule."""

    name: Literal["unet", "vgg"]
    parameters: dict[str, int | bool]
    learning_rate: float = Field(gt=0, le=1)


class Optimizer(_Strict):
    """Of the network, and of the discriminator where there is one."""

    name: Literal["adam", "adamw"]
    betas: list[float] = Field(min_length=2, max_length=2)
    weight_decay: float = Field(ge=0)


class Cosine(_Strict):
    """Half a cosine from the learning rate down to a share of it."""

    name: Literal["cosine"]
    final: float = Field(gt=0, lt=1, description="as a share of the learning rate")


class MultiStep(_Strict):
    """The learning rate times `factor` at each milestone; none: it stays as it is."""

    name: Literal["multistep"]
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(description="shares of the stage")
    factor: float = Field(gt=0, lt=1)


Schedule = Annotated[Cosine | MultiStep, Field(discriminator="name")]


class Patch(_Strict):
    """The side of an LR crop in pixels, from a share of the stage on."""

    since: float = Field(ge=0, lt=1)
    side: int = Field(gt=0)


class EarlyStop(_Strict):
    """Stop after `patience` validations in a row that gain less than `min_gain` dB on the best."""

    patience: int = Field(gt=0)
    min_gain: float = Field(ge=0)


class Stage(_Strict):
    """How long and how fast to train. Whichever of `steps` and `max_minutes` ends first ends it.

    With a time limit the schedule follows the clock where the clock is ahead, so that the learning
    rate always comes down to its end; such a stage cannot be repeated to the bit. `micro_batch`
    crops go through the network at a time (null: the whole batch), to the same result.
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
    def _fits_together(self) -> "Stage":
        if self.patches[0].since != 0:
            raise ValueError("the first of `patches` starts at 0.0")
        if any(later.since <= sooner.since for sooner, later in pairwise(self.patches)):
            raise ValueError("`patches` stand in the order of `since`")
        if self.warmup_steps >= self.steps:
            raise ValueError("`warmup_steps` is less than `steps`")
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError("`micro_batch` is not more than `batch`")
        return self

    def patch(self, progress: float) -> int:
        """The side of an LR crop at a share of the stage."""
        return next(patch.side for patch in reversed(self.patches) if patch.since <= progress)


def _known_mix(value: object) -> object:
    """Refuse a degradation that there is not while its key can still be named."""
    if isinstance(value, str | dict):
        try:
            parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
    return value


class Recipe(_Strict):
    """Everything that a training is, but for its data.

    `degradation` makes the LR pictures while training, anew in every step; null takes those of the
    dataset. `max_nan_skips` steps in a row may be left out because a loss or the gradient is no
    number; one more ends the training.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    task: Literal["super-resolution", "restoration"]
    scale: Literal[1, 2, 3, 4, 8]
    arch: Arch
    losses: list[Loss] = Field(min_length=1)
    discriminator: Discriminator | None
    degradation: Annotated[str | dict[str, float] | None, BeforeValidator(_known_mix)]
    optimizer: Optimizer
    schedule: Schedule
    ema_decay: float = Field(ge=0, lt=1)
    gradient_clip: float = Field(gt=0, description="greatest norm of all gradients together")
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
    def _fits_together(self) -> "Recipe":
        names = [loss.name for loss in self.losses]
        if len(set(names)) < len(names):
            raise ValueError("each of `losses` stands once")
        if ("gan" in names) != (self.discriminator is not None):
            raise ValueError("a `discriminator` and a loss named gan need each other")
        if self.task == "super-resolution" and self.scale == 1:
            raise ValueError("`task` is restoration where `scale` is 1")
        if self.cuda_graphs and not self.compile:
            raise ValueError("`cuda_graphs` needs `compile: true`, which records them")
        return self

    def stage(self, profile: Profile) -> Stage:
        """The stage that a profile trains."""
        return {"full": self.full, "finetune": self.finetune, "smoke": self.smoke}[profile]

    def mix(self) -> Mix | None:
        """The degradation while training, None where the dataset's LR pictures are used."""
        return None if self.degradation is None else parse(self.degradation)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return self.model_dump(mode="json")


def recipe_names() -> list[str]:
    """The recipes that come with Sharpline."""
    folder = resources.files("training") / "recipes"
    return sorted(
        path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml")
    )


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by name, or from a YAML file.

    Raises UsageError naming the key that is unknown, missing or out of its range.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"there is no recipe file {path}")
        return parse_recipe(_text(path), origin=str(path))
    if name_or_path not in recipe_names():
        raise UsageError(
            f"no recipe {name_or_path!r}; there are: {', '.join(recipe_names())}, "
            "or give a YAML file"
        )
    text = resources.files("training").joinpath(f"recipes/{name_or_path}.yaml").read_text("utf-8")
    return parse_recipe(text, origin=name_or_path)


def parse_recipe(text: str, *, origin: str) -> Recipe:
    """A recipe from YAML text; `origin` is what errors call it."""
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {origin} is not YAML: {error}") from error
    except ValidationError as error:
        raise UsageError(f"recipe {origin}: {_what_is_wrong(error)}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} cannot be read as text: {error}") from error


def _what_is_wrong(error: ValidationError) -> str:
    """One key and what is wrong with it: an unknown one before all, since a misspelt key is also
    missing under its right name."""
    found = error.errors()
    first = min(found, key=lambda each: each["type"] != "extra_forbidden")
    *parents, last = first["loc"] or ("",)
    key = ".".join(map(str, first["loc"]))
    if not key and first["type"] == "model_type":
        return "it is no mapping of keys to values; see docs/training.md for the keys"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        missing = [
            str(each["loc"][-1])
            for each in found
            if each["type"] == "missing" and [*each["loc"][:-1]] == parents
        ]
        meant = get_close_matches(str(last), missing, n=1)
        return f"{key} is not a key of recipes" + (f"; {meant[0]} is missing" if meant else "")
    reason = first["msg"].removeprefix("Value error, ")
    return f"{key or 'as a whole it'} is wrong: {reason}"
