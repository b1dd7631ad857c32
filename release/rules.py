"""The gate's rules: one complete YAML file, without inheritance or unknown keys."""

from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from superres.analysis.degradation_features import FEATURES
from superres.common.errors import UsageError
from superres.common.strict import StrictModel, describe
from superres.dataset.manifest import INFO_NAME, read_info
from superres.model.bundle import Training
from superres.quality import Protocol
from superres.quality.metrics import QUALITY_METRICS

DEFAULT, GAN = "psnr", "gan"


class Resampling(StrictModel):
    """Parameters of the bootstrap, and its minimum numbers of pictures and blocks.

    `confidence` is that of the two-sided interval, `block_pixels` the minimum side of a block.
    """

    confidence: float = Field(gt=0.5, lt=1)
    resamples: int = Field(ge=100)
    seed: int = Field(ge=0)
    block_pixels: int = Field(ge=8)
    min_pictures: int = Field(ge=2)
    min_blocks: int = Field(ge=8)


class NamedProtocol(StrictModel):
    """The protocol that a floor applies to."""

    dataset: str
    scale: int
    channel: Literal["y", "rgb"]
    border: int
    resampler: str

    def matches(self, protocol: Protocol) -> bool:
        """Whether `protocol` has these fields."""
        return all(getattr(protocol, field) == value for field, value in self)


class Floor(StrictModel):
    """Minimum mean PSNR and SSIM on a protocol."""

    protocol: NamedProtocol
    psnr: float
    ssim: float


class Slice(StrictModel):
    """Pictures selected by a feature, with the maximum loss on them.

    `max_loss_db` is a loss of PSNR; `max_loss` maps perceptual metrics to losses.
    """

    name: str
    feature: str
    at_least: float | None = None
    at_most: float | None = None
    min_pictures: int = Field(ge=2)
    max_loss_db: float | None = Field(default=None, ge=0)
    max_loss: dict[str, float] | None = None

    @model_validator(mode="after")
    def _check_limits(self) -> "Slice":
        if self.feature not in FEATURES:
            raise ValueError(f"no feature {self.feature!r}; there are {', '.join(FEATURES)}")
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"slice {self.name!r} states neither at_least nor at_most")
        if (self.max_loss_db is None) == (not self.max_loss):
            raise ValueError(f"slice {self.name!r} states either max_loss_db or max_loss")
        return self

    def contains(self, features: dict[str, float]) -> bool:
        """Whether a picture with these features belongs to the slice."""
        value = features[self.feature]
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)

    def too_few(self, pictures: int) -> str:
        """Why a slice with so many pictures is not judged."""
        return f"{pictures} {self.name} pictures, fewer than the {self.min_pictures} needed"


class PerceptualGain(StrictModel):
    """Minimum gains on a perceptual metric, at the interval's lower end.

    `metric` is a registered quality metric whose lower values are better: a gain is positive where
    the metric is lower.
    """

    metric: str
    min_gain_over_champion: float
    min_gain_over_bicubic: float


class Perception(StrictModel):
    """Rules for models trained with a discriminator: perceptual gains, and a floor on PSNR.

    `min_psnr_over_bicubic_db` compares the means over all pictures.
    """

    metrics: list[PerceptualGain] = Field(min_length=1)
    min_psnr_over_bicubic_db: float


class CostLimits(StrictModel):
    """Maximum inference time and memory, as ratios to the champion's.

    Seconds are medians over `rounds` rounds. Up to `free_megabytes` more memory always passes.
    """

    rounds: int = Field(ge=3)
    max_seconds_ratio: float = Field(gt=0)
    max_memory_ratio: float = Field(gt=0)
    free_megabytes: float = Field(ge=0)


class Rules(StrictModel):
    """Requirements for promotion. Gains are the interval's lower end.

    `kind` selects the models: `psnr` models are judged on PSNR and SSIM, `gan` models (trained
    with a discriminator) on perceptual metrics. null disables a rule that the kind does not use.
    `commercial_use` requires a licence that allows it, or one that allows no less than the
    champion's.
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
    def _check_kind(self) -> "Rules":
        if (self.kind == "gan") != (self.perception is not None):
            raise ValueError("rules of kind gan, and only they, state perception")
        if self.kind == "psnr" and None in (
            self.min_gain_over_champion_db,
            self.min_gain_over_bicubic_db,
            self.max_ssim_loss,
        ):
            raise ValueError("rules of kind psnr state both gains and max_ssim_loss")
        measured = self.perceptual_metrics
        if unmeasured := [each.name for each in self.slices if set(each.max_loss or ()) - measured]:
            raise ValueError(f"slice {unmeasured[0]!r} names a metric that perception does not")
        return self

    @property
    def perceptual_metrics(self) -> frozenset[str]:
        """Names of the metrics to measure besides PSNR and SSIM."""
        gains = self.perception.metrics if self.perception else []
        return frozenset(gain.metric for gain in gains)


def load_rules(path: Path) -> Rules:
    """Load rules from a YAML file. Raises UsageError naming the file and the invalid key."""
    try:
        rules = Rules.parse(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise UsageError(f"cannot read the rules {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        reason = describe(error, Rules, "key of gate rules")
        raise UsageError(f"{path} is not a gate rules file: {reason}") from error
    # Not in the model: evidence is read where the metrics are not installed.
    for metric in sorted(rules.perceptual_metrics):
        try:
            QUALITY_METRICS.get(metric)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
    return rules


def rules_for(data: Path, training: Training) -> Path:
    """Path of the shipped rules for a model and a dataset: by model kind, then by data source.

    A model trained with a discriminator has its own rules for all data; any other gets the rules
    named after the dataset's source, else the default rules.
    """
    folder = Path(str(resources.files("release"))) / "rules"
    # Only existing files count: a source may be any text, even a path.
    shipped = {path.stem: path for path in folder.glob("*.yaml")}
    if training.is_adversarial:
        return shipped[GAN]
    source = read_info(data).source if (data / INFO_NAME).is_file() else DEFAULT
    return shipped[DEFAULT] if source == GAN else shipped.get(source, shipped[DEFAULT])
