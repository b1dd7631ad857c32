"""Which model a picture gets when it asks for `auto`: tables, and one function that reads them.

`select_model` takes numbers only (`degradation_features.examine`, the request, the candidates): the
command line and the server call the same function, and it needs no picture and no network.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from superres.common.errors import SharplineError
from superres.model.bundle import BundleInfo
from superres.quality.protocol import Protocol

AUTO = "auto"


class NoModelFits(SharplineError):
    """No model there is does what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationRule:
    """A damage, and the measured figure that gives it away: at least, or at most, `limit`."""

    damage: str
    feature: str
    when: Literal["at least", "at most"]
    limit: float

    def holds(self, measured: Mapping[str, float]) -> bool:
        """Whether the figures show this damage."""
        value = measured[self.feature]
        return value >= self.limit if self.when == "at least" else value <= self.limit


# Limits lie between what clean photographs and damaged ones show after shrinking by four: of 42
# clean ones none is taken for a JPEG or for noisy; nine in ten JPEGs of quality 75 and below
# and of pictures with noise of 10 levels are found.
DEGRADATION_RULES = (
    DegradationRule(damage="compressed", feature="jpeg_quality", when="at most", limit=92.0),
    DegradationRule(damage="noisy", feature="noise_floor", when="at least", limit=6.0),
    DegradationRule(damage="blurred", feature="blur", when="at least", limit=0.45),
)

# What a model has learned to undo beside the shrinking, by the degradation it was trained with.
TRAINED_FOR: Mapping[str, frozenset[str]] = {
    "bicubic": frozenset(),
    "bicubic_jpeg": frozenset({"compressed"}),
    "jpeg": frozenset({"compressed"}),
    "gaussian_noise": frozenset({"noisy"}),
    "poisson_noise": frozenset({"noisy"}),
    "iso_noise": frozenset({"noisy"}),
    "defocus": frozenset({"blurred"}),
    "motion": frozenset({"blurred"}),
    "bsrgan": frozenset({"compressed", "noisy", "blurred"}),
    "real_esrgan": frozenset({"compressed", "noisy", "blurred"}),
    "old_photo": frozenset({"noisy", "blurred"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRule:
    """Inputs of at most so many megapixels are enlarged by `scale` where no scale is asked for."""

    max_megapixels: float
    scale: int


# An answer of more than some 50 megapixels is rarely what anybody wants unasked.
SIZE_RULES = (
    SizeRule(max_megapixels=3.0, scale=4),
    SizeRule(max_megapixels=float("inf"), scale=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRequest:
    """What was asked for; None leaves it to the rule. `deadline_seconds` is for the one picture."""

    scale: int | None = None
    task: str | None = None
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that could be taken.

    `degradation` is what it was trained with; `psnr` its figures by protocol, which count only
    between models that state the same one; `seconds_per_megapixel` is of input, None where nobody
    has measured it yet.
    """

    name: str
    scale: int
    task: str
    degradation: str
    psnr: Mapping[Protocol, float] = field(default_factory=dict)
    seconds_per_megapixel: float | None = None

    @classmethod
    def of(cls, info: BundleInfo, seconds_per_megapixel: float | None = None) -> "Candidate":
        """What a bundle says of itself."""
        return cls(
            name=info.name,
            scale=info.scale,
            task=info.task,
            degradation=info.training.degradation,
            psnr={Protocol.from_dict(score.protocol): score.psnr for score in info.scores},
            seconds_per_megapixel=seconds_per_megapixel,
        )

    @property
    def trained_for(self) -> frozenset[str]:
        """The damages that its training showed it; a mix counts with all its kinds."""
        kinds = re.findall(r"[a-z_]+", self.degradation)
        return frozenset().union(*(TRAINED_FOR.get(kind, frozenset()) for kind in kinds))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The model to take and, for a person, why."""

    model: str
    reason: str


def select_model(
    measured: Mapping[str, float], request: SelectionRequest, candidates: Sequence[Candidate]
) -> ModelChoice:
    """The candidate for a picture with these figures (`degradation_features.examine`).

    In this order: of the scale and task; within the deadline; trained for the most of the damages
    found; trained for the fewest others; the best by PSNR under the protocol that most of the rest
    state; the first named. Raises NoModelFits.
    """
    fitting = _of_task_and_scale(measured, request, candidates)
    in_time, hurry = _within_deadline(measured, request, fitting)
    rules = [rule for rule in DEGRADATION_RULES if rule.holds(measured)]
    found = frozenset(rule.damage for rule in rules)
    suited = _suited(found, in_time)
    best = _best(suited)
    return ModelChoice(model=best.name, reason=_reason(measured, rules, best, hurry))


def _of_task_and_scale(
    measured: Mapping[str, float], request: SelectionRequest, candidates: Sequence[Candidate]
) -> list[Candidate]:
    of_task = [each for each in candidates if request.task in (None, each.task)]
    scales = sorted({each.scale for each in of_task})
    scale = request.scale
    if scale is None and scales:
        size = next(size for size in SIZE_RULES if measured["megapixels"] <= size.max_megapixels)
        scale = max((each for each in scales if each <= size.scale), default=scales[0])
    fitting = [each for each in of_task if each.scale == scale]
    if not fitting:
        asked = " ".join(
            part
            for part in (f"of scale {request.scale}" if request.scale else "", request.task or "")
            if part
        )
        there = ", ".join(f"{each.name} (x{each.scale}, {each.task})" for each in candidates)
        raise NoModelFits(f"no model {asked or 'at all'}; there are: {there or 'none'}")
    return fitting


def _within_deadline(
    measured: Mapping[str, float], request: SelectionRequest, candidates: list[Candidate]
) -> tuple[list[Candidate], str]:
    """Those that are fast enough, or not known to be too slow; else the fastest alone."""
    deadline = request.deadline_seconds
    if deadline is None:
        return candidates, ""

    def seconds(candidate: Candidate) -> float:
        return (candidate.seconds_per_megapixel or 0.0) * measured["megapixels"]

    in_time = [each for each in candidates if seconds(each) <= deadline]
    if len(in_time) == len(candidates):
        return candidates, ""
    if in_time:
        late = sorted({each.name for each in candidates} - {each.name for each in in_time})
        return in_time, f"; {', '.join(late)} would take longer than {deadline:g} s"
    fastest = min(candidates, key=seconds)
    return [fastest], f"; none does it in {deadline:g} s, and this is the fastest"


def _suited(found: frozenset[str], candidates: list[Candidate]) -> list[Candidate]:
    """Those trained for the most of what was found and then for the least else."""

    def fit(candidate: Candidate) -> tuple[int, int]:
        learned = candidate.trained_for
        return len(found & learned), -len(learned - found)

    top = max(fit(each) for each in candidates)
    return [each for each in candidates if fit(each) == top]


def _best(candidates: list[Candidate]) -> Candidate:
    """By PSNR under the protocol that the most of them state; without one, the first named."""
    stated = Counter(protocol for each in candidates for protocol in each.psnr)
    if not stated or max(stated.values()) == 1:
        return candidates[0]
    protocol = min(stated, key=lambda each: (-stated[each], str(each)))
    return max(
        (each for each in candidates if protocol in each.psnr),
        key=lambda each: each.psnr[protocol],
    )


def _reason(
    measured: Mapping[str, float], rules: Sequence[DegradationRule], best: Candidate, hurry: str
) -> str:
    if not rules:
        seen = "no damage found"
    else:
        seen = ", ".join(
            f"{rule.damage} ({rule.feature} {measured[rule.feature]:.3g}, {rule.when} "
            f"{rule.limit:g})"
            for rule in rules
        )
    untrained = [rule.damage for rule in rules if rule.damage not in best.trained_for]
    lacking = f", which was not trained for {' and '.join(untrained)} input" if untrained else ""
    return f"{seen}: {best.name} ({best.degradation}){lacking}{hurry}"


def rule_tables() -> str:
    """The tables above as Markdown, for the documentation."""
    rules = [
        f"| {rule.damage} | `{rule.feature}` {rule.when} {rule.limit:g} | {_kinds(rule.damage)} |"
        for rule in DEGRADATION_RULES
    ]
    sizes = [
        f"| {'any more' if size.max_megapixels == float('inf') else f'{size.max_megapixels:g}'} "
        f"| {size.scale} |"
        for size in SIZE_RULES
    ]
    return "\n".join(
        [
            "| damage | found where | models trained with |",
            "|---|---|---|",
            *rules,
            "",
            "| input of at most, megapixels | scale, where none is asked for |",
            "|---|---|",
            *sizes,
        ]
    )


def _kinds(damage: str) -> str:
    return ", ".join(f"`{kind}`" for kind, damages in TRAINED_FOR.items() if damage in damages)
