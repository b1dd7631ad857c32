"""A recipe: one complete YAML file, nothing inherited, nothing unknown."""

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from superres.errors import UsageError

Profile = Literal["full", "finetune", "smoke"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Arch(_Strict):
    """A network of superres.archs and its constructor's arguments."""

    name: str
    parameters: dict[str, int | float | bool | str | list[int]]


class Loss(_Strict):
    """One term of the sum that is minimised."""

    name: Literal["l1", "charbonnier", "mse"]
    weight: float = Field(gt=0)


class Stage(_Strict):
    """How long and how fast to train. Whichever of `steps` and `max_minutes` ends first ends it.

    With a time limit the schedule follows the clock where the clock is ahead, so that the learning
    rate always comes down to its end. `patch` is the side of an LR crop; sides in LR pixels.
    """

    steps: int = Field(gt=0)
    max_minutes: float | None = Field(gt=0)
    batch: int = Field(gt=0)
    patch: int = Field(gt=0)
    learning_rate: float = Field(gt=0, le=1)
    warmup_steps: int = Field(ge=0)
    validate_every: int = Field(gt=0)
    checkpoint_every: int = Field(gt=0)


class Recipe(_Strict):
    """Everything that a training is, but for its data."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    task: Literal["super-resolution"]
    scale: Literal[2, 3, 4, 8]
    arch: Arch
    losses: list[Loss] = Field(min_length=1)
    final_learning_rate: float = Field(gt=0, lt=1, description="as a share of the learning rate")
    weight_decay: float = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)
    gradient_clip: float = Field(gt=0, description="greatest norm of all gradients together")
    precision: Literal["bf16", "fp32"]
    channels_last: bool
    seed: int = Field(ge=0)
    full: Stage
    finetune: Stage
    smoke: Stage

    def stage(self, profile: Profile) -> Stage:
        """The stage that a profile trains."""
        return {"full": self.full, "finetune": self.finetune, "smoke": self.smoke}[profile]

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
        return parse_recipe(path.read_text(encoding="utf-8"), origin=str(path))
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
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
        what = {"extra_forbidden": "is not a key of recipes", "missing": "is missing"}.get(
            first["type"], f"is wrong: {first['msg']}"
        )
        raise UsageError(f"recipe {origin}: {key} {what}") from error
