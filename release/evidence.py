"""What the gate found, bound to the bytes that it judged: `evidence.json`."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from release.bootstrap import Gain
from release.bounds import MeasuredBounds
from release.cost import MeasuredCosts
from release.rules import Rules
from release.trial import Figures
from superres.common.errors import SharplineError
from superres.common.files import write_json

EVIDENCE_FILE = "evidence.json"


class BrokenEvidence(SharplineError):
    """A file that is no evidence, or says of itself what it cannot be."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Contender(_Strict):
    """A version of the model and the sha256 that binds the evidence to its bytes."""

    version: int
    bundle_id: str


class Outcome(_Strict):
    """One rule, what it asked for and what was found; `passed` is None where it was not judged."""

    rule: str
    passed: bool | None
    value: float | None
    limit: float | None
    why: str


class PictureRecord(_Strict):
    """One picture's figures and the features of its low-resolution input.

    `perception` holds by figure what challenger, champion and bicubic have.
    """

    name: str
    blocks: int
    challenger: Figures
    champion: Figures | None
    bicubic: Figures
    features: dict[str, float]
    perception: dict[str, dict[str, float]]


class Runtime(_Strict):
    """Where the models ran, and the versions of what ran them."""

    backend: str
    device: str
    precision: str
    software: dict[str, str]


class Evidence(_Strict):
    """A judgement of one version against the champion of its time, and all that led to it."""

    format_version: int
    model: str
    created: str
    seconds: float
    passed: bool
    challenger: Contender
    champion: Contender | None
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
    def _agrees_with_itself(self) -> "Evidence":
        if self.passed != all_passed(self.outcomes):
            raise ValueError("it does not pass by its own outcomes")
        return self

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate refused; empty where it did not."""
        return tuple(outcome.why for outcome in self.outcomes if outcome.passed is False)

    @property
    def gain_over_rival(self) -> Gain | None:
        """The gain over the one to beat: the champion, or bicubic where there was none."""
        return self.gain_over_bicubic if self.champion is None else self.gain_over_champion


def all_passed(outcomes: tuple[Outcome, ...]) -> bool:
    """Whether something was judged and nothing failed."""
    verdicts = [outcome.passed for outcome in outcomes]
    return True in verdicts and False not in verdicts


def write_evidence(folder: Path, evidence: Evidence) -> Path:
    """Write evidence.json into `folder` and return its path."""
    path = folder / EVIDENCE_FILE
    write_json(path, json.loads(evidence.model_dump_json()))
    return path


def evidence_path(path: Path) -> Path:
    """The evidence file itself, given it or its folder. Raises BrokenEvidence without one."""
    file = path / EVIDENCE_FILE if path.is_dir() else path
    if not file.is_file():
        raise BrokenEvidence(f"there is no evidence at {path}; make some with `sharpline gate`")
    return file


def read_evidence(path: Path) -> Evidence:
    """The evidence in a file. Raises BrokenEvidence where it is damaged or contradicts itself."""
    try:
        return Evidence.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise BrokenEvidence(
            f"{path} is no evidence of this version of Sharpline ({reason}); run `sharpline gate` "
            "again"
        ) from error
