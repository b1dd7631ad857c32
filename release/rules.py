"""The gate's rules: one complete YAML file, nothing inherited, nothing unknown."""

from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from superres.errors import UsageError
from superres.manifest import INFO_NAME, read_info
from superres.measure import FEATURES
from superres.quality import Protocol

DEFAULT = "psnr"


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
    least_pictures: int = Field(ge=2)
    least_blocks: int = Field(ge=8)


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
    """Pictures of one kind, on which a model may lose at most `most_loss_db`."""

    name: str
    feature: str
    at_least: float | None = None
    at_most: float | None = None
    least_pictures: int = Field(ge=2)
    most_loss_db: float = Field(ge=0)

    @model_validator(mode="after")
    def _says_which(self) -> "Slice":
        if self.feature not in FEATURES:
            raise ValueError(f"no feature {self.feature!r}; there are {', '.join(FEATURES)}")
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"slice {self.name!r} states neither at_least nor at_most")
        return self

    def holds(self, features: dict[str, float]) -> bool:
        """Whether a picture with these features belongs to the slice."""
        value = features[self.feature]
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


class Rules(_Strict):
    """What a model judged on PSNR and SSIM must show. Gains are of the interval's lower end."""

    name: str
    channel: Literal["y", "rgb"]
    resampling: Resampling
    least_gain_over_champion_db: float
    least_gain_over_bicubic_db: float
    most_ssim_loss: float = Field(ge=0)
    floors: list[Floor]
    slices: list[Slice]
    most_seam_levels: float = Field(ge=0)
    most_precision_levels: float = Field(ge=0)


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


def rules_for(data: Path) -> Path:
    """The rules that fit a dataset: those named after its source, else the usual ones."""
    folder = Path(str(resources.files("release"))) / "rules"
    source = read_info(data).source if (data / INFO_NAME).is_file() else DEFAULT
    # Only a file that is there counts: a source may be any text, a path even.
    own = {path.stem: path for path in folder.glob("*.yaml")}
    return own.get(source, own[DEFAULT])
