"""`evidence.json`: the gate's result, bound to the bytes of the judged bundles."""

import json
from pathlib import Path

from pydantic import ValidationError, model_validator

from release.bootstrap import Gain
from release.bounds import MeasuredBounds
from release.cost import MeasuredCosts
from release.rules import Rules
from release.trial import PictureMetrics
from superres.common.errors import SharplineError
from superres.common.files import write_json
from superres.common.strict import StrictModel

EVIDENCE_FILE = "evidence.json"


class BrokenEvidence(SharplineError):
    """A file is not valid evidence, or contradicts itself."""


class VersionRef(StrictModel):
    """A model version and the bundle id (sha256) that binds the evidence to its bytes."""

    version: int
    bundle_id: str


class Outcome(StrictModel):
    """One rule's limit and measured value; `passed` is None where the rule was not judged."""

    rule: str
    passed: bool | None
    value: float | None
    limit: float | None
    why: str

    @classmethod
    def at_least(cls, rule: str, value: float, limit: float, why: str) -> "Outcome":
        """Passes where `value` is `limit` or more."""
        return cls(rule=rule, passed=value >= limit, value=value, limit=limit, why=why)

    @classmethod
    def at_most(cls, rule: str, value: float, limit: float, why: str) -> "Outcome":
        """Passes where `value` is `limit` or less."""
        return cls(rule=rule, passed=value <= limit, value=value, limit=limit, why=why)

    @classmethod
    def not_judged(cls, rule: str, limit: float | None, why: str) -> "Outcome":
        """A rule that does not apply or could not be measured."""
        return cls(rule=rule, passed=None, value=None, limit=limit, why=f"not judged: {why}")


class PictureRecord(StrictModel):
    """One picture's metrics and the features of its low-resolution input.

    `perception` maps metric and model (challenger, champion, bicubic) to a value.
    """

    name: str
    blocks: int
    challenger: PictureMetrics
    champion: PictureMetrics | None
    bicubic: PictureMetrics
    features: dict[str, float]
    perception: dict[str, dict[str, float]]


class Runtime(StrictModel):
    """The backend and device that ran the models, and software versions."""

    backend: str
    device: str
    precision: str
    software: dict[str, str]


class Evidence(StrictModel):
    """The gate's decision on one version against the champion of that time, with all inputs."""

    format_version: int
    model: str
    created: str
    seconds: float
    passed: bool
    challenger: VersionRef
    champion: VersionRef | None
    protocol: dict[str, str | int]
    gain_over_champion: Gain | None
    gain_over_bicubic: Gain | None
    outcomes: tuple[Outcome, ...]
    pictures: tuple[PictureRecord, ...]
    bounds: MeasuredBounds
    costs: MeasuredCosts
    runtime: Runtime
    rules: Rules

    @model_validator(mode="after")
    def _check_passed(self) -> "Evidence":
        if self.passed != all_passed(self.outcomes):
            raise ValueError("`passed` contradicts the outcomes")
        return self

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate refused; empty where it did not."""
        return tuple(outcome.why for outcome in self.outcomes if outcome.passed is False)

    @property
    def gain_over_baseline(self) -> Gain | None:
        """The gain over the baseline: the champion, or bicubic where there was none."""
        return self.gain_over_bicubic if self.champion is None else self.gain_over_champion


def all_passed(outcomes: tuple[Outcome, ...]) -> bool:
    """Whether something was judged and nothing failed."""
    results = [outcome.passed for outcome in outcomes]
    return True in results and False not in results


def write_evidence(folder: Path, evidence: Evidence) -> Path:
    """Write evidence.json into `folder` and return its path."""
    path = folder / EVIDENCE_FILE
    write_json(path, json.loads(evidence.model_dump_json()))
    return path


def evidence_path(path: Path) -> Path:
    """The evidence file of a path to the file or its folder. Raises BrokenEvidence if missing."""
    file = path / EVIDENCE_FILE if path.is_dir() else path
    if not file.is_file():
        raise BrokenEvidence(f"there is no evidence at {path}; run `sharpline gate` first")
    return file


def read_evidence(path: Path) -> Evidence:
    """Read evidence. Raises BrokenEvidence where the file is damaged or contradicts itself."""
    try:
        return Evidence.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise BrokenEvidence(
            f"{path} is not evidence that this version of Sharpline reads ({reason}); run "
            "`sharpline gate` again"
        ) from error
