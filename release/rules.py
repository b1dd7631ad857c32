"""The gate's rules: one complete YAML file, nothing inherited, nothing unknown."""

from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from superres.analysis.degradation_features import FEATURES
from superres.common.errors import UsageError
from superres.dataset.manifest import INFO_NAME, read_info
from superres.model.bundle import Training
from superres.quality import Protocol

DEFAULT, GAN = "psnr", "gan"

PerceptualName = Literal["lpips", "lpips_vgg", "dists"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Resampling(_Strict):
    """How the bootstrap draws, and below how many pictures and blocks it says nothing.

    `confidence` is that of the two-sided interval, `block_pixels` the least side of a block.
    """

    confidence: float = Field(gt=0.5, lt=1)
    resamples: int = Field(ge=100)
    seed: int = Field(ge=0)
    block_pixels: int = Field(ge=8)
    min_pictures: int = Field(ge=2)
    min_blocks: int = Field(ge=8)


class NamedProtocol(_Strict):
    """The protocol that a floor speaks of."""

    dataset: str
    scale: int
    channel: Literal["y", "rgb"]
    border: int
    resampler: str

    def matches(self, protocol: Protocol) -> bool:
        """Whether a run under `protocol` is one that this floor speaks of."""
        return all(getattr(protocol, field) == value for field, value in self)


class Floor(_Strict):
    """Mean figures that a model must reach on a named protocol."""

    protocol: NamedProtocol
    psnr: float
    ssim: float


class Slice(_Strict):
    """Pictures of one kind, on which a model may lose at most so much.

    `max_loss_db` is of PSNR; `max_loss` of a perceptual figure, by its name.
    """

    name: str
    feature: str
    at_least: float | None = None
    at_most: float | None = None
    min_pictures: int = Field(ge=2)
    max_loss_db: float | None = Field(default=None, ge=0)
    max_loss: dict[PerceptualName, float] | None = None

    @model_validator(mode="after")
    def _says_which(self) -> "Slice":
        if self.feature not in FEATURES:
            raise ValueError(f"no feature {self.feature!r}; there are {', '.join(FEATURES)}")
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"slice {self.name!r} states neither at_least nor at_most")
        if (self.max_loss_db is None) == (not self.max_loss):
            raise ValueError(f"slice {self.name!r} states either max_loss_db or max_loss")
        return self

    def holds(self, features: dict[str, float]) -> bool:
        """Whether a picture with these features belongs to the slice."""
        value = features[self.feature]
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


class PerceptualGain(_Strict):
    """What a model must gain on a perceptual figure, at least, at the interval's lower end.

    Gains are positive where the model is better, though the figures themselves are lower then.
    """

    figure: PerceptualName
    min_gain_over_champion: float
    min_gain_over_bicubic: float


class Perception(_Strict):
    """How a model that makes up detail is judged: by these figures, and by PSNR only from below.

    `min_psnr_over_bicubic_db` is of the means over all pictures.
    """

    figures: list[PerceptualGain] = Field(min_length=1)
    min_psnr_over_bicubic_db: float


class CostLimits(_Strict):
    """What an answer may cost, as a multiple of what the champion's costs.

    Seconds are medians over `rounds` turns. Memory under `free_megabytes` more is not minded.
    """

    rounds: int = Field(ge=3)
    max_seconds_ratio: float = Field(gt=0)
    max_memory_ratio: float = Field(gt=0)
    free_megabytes: float = Field(ge=0)


class Rules(_Strict):
    """What a model must show before it goes live. Gains are of the interval's lower end.

    `kind` says which models the rules are for: judged on PSNR and SSIM, or, trained against a
    discriminator, on perceptual figures. null is what a kind does not ask for. `commercial_use`
    asks that the weights' licence allow it, or allow no less than the champion's.
    """

    name: str
    kind: Literal["psnr", "gan"]
    channel: Literal["y", "rgb"]
    resampling: Resampling
    min_gain_over_champion_db: float | None
    min_gain_over_bicubic_db: float | None
    max_ssim_loss: float | None = Field(ge=0)
    perception: Perception | None
    floors: list[Floor]
    slices: list[Slice]
    max_seam_levels: float = Field(ge=0)
    max_precision_levels: float = Field(ge=0)
    cost: CostLimits
    commercial_use: Literal["as the champion", "yes", "any"]

    @model_validator(mode="after")
    def _judges_its_kind(self) -> "Rules":
        if (self.kind == "gan") != (self.perception is not None):
            raise ValueError("perception is what rules of kind gan state, and only they")
        if self.kind == "psnr" and None in (
            self.min_gain_over_champion_db,
            self.min_gain_over_bicubic_db,
            self.max_ssim_loss,
        ):
            raise ValueError("rules of kind psnr state both gains and max_ssim_loss")
        measured = self.perceptual_figures
        if foreign := [part.name for part in self.slices if set(part.max_loss or ()) - measured]:
            raise ValueError(f"slice {foreign[0]!r} is about a figure that perception does not ask")
        return self

    @property
    def perceptual_figures(self) -> frozenset[str]:
        """The names of the figures that must be measured beside PSNR and SSIM."""
        asked = self.perception.figures if self.perception else []
        return frozenset(each.figure for each in asked)


def load_rules(path: Path) -> Rules:
    """The rules in a YAML file. Raises UsageError naming the file and the key that is wrong."""
    try:
        return Rules.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise UsageError(f"cannot read the rules {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path} is no set of gate rules: {where}: {first['msg']}") from error


def rules_for(data: Path, training: Training) -> Path:
    """The rules that fit a model and the pictures: by kind of model, then by the data's source.

    A model that was trained to make up detail has rules of its own whatever the pictures; any other
    those named after the dataset's source, else the usual ones.
    """
    folder = Path(str(resources.files("release"))) / "rules"
    # Only a file that is there counts: a source may be any text, a path even.
    own = {path.stem: path for path in folder.glob("*.yaml")}
    if training.invents_detail:
        return own[GAN]
    source = read_info(data).source if (data / INFO_NAME).is_file() else DEFAULT
    return own[DEFAULT] if source == GAN else own.get(source, own[DEFAULT])
