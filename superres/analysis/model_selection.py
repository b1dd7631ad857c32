"""Model selection for `auto`: rule tables and one function that applies them.

`select_model` takes numbers only (`degradation_features.examine`, the request, the candidates): the
command line and the server call the same function; it needs no picture and no network.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from superres.common.errors import SharplineError
from superres.degrade import DEGRADATIONS
from superres.model.bundle import BundleInfo
from superres.quality.protocol import Protocol

AUTO = "auto"


class NoModelFits(SharplineError):
    """No available model has the requested scale and task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationRule:
    """A kind of damage and the threshold of the feature that indicates it."""

    damage: str
    feature: str
    when: Literal["at least", "at most"]
    limit: float

    def matches(self, measured: Mapping[str, float]) -> bool:
        """Whether the measured features indicate this damage."""
        value = measured[self.feature]
        return value >= self.limit if self.when == "at least" else value <= self.limit


# The limits separate clean from damaged photographs after shrinking by four: none of 42 clean ones
# is classified as compressed or noisy; nine in ten of the JPEGs of quality 75 and below and of the
# pictures with noise of 10 levels are detected.
DEGRADATION_RULES = (
    DegradationRule(damage="compressed", feature="jpeg_quality", when="at most", limit=92.0),
    DegradationRule(damage="noisy", feature="noise_floor", when="at least", limit=6.0),
    DegradationRule(damage="blurred", feature="blur", when="at least", limit=0.45),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRule:
    """The default scale of inputs of at most `max_megapixels`."""

    max_megapixels: float
    scale: int


# Outputs of more than some 50 megapixels are rarely useful as a default.
SIZE_RULES = (
    SizeRule(max_megapixels=3.0, scale=4),
    SizeRule(max_megapixels=float("inf"), scale=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRequest:
    """The request; None leaves a choice to the rules. `deadline_seconds` is for one picture."""

    scale: int | None = None
    task: str | None = None
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that may be selected.

    `degradation` is what it was trained with; `psnr` holds its PSNR by protocol, compared only
    between models with the same protocol; `seconds_per_megapixel` is of input, None if not
    measured yet.
    """

    name: str
    scale: int
    task: str
    degradation: str
    psnr: Mapping[Protocol, float] = field(default_factory=dict)
    seconds_per_megapixel: float | None = None

    @classmethod
    def of(cls, info: BundleInfo, seconds_per_megapixel: float | None = None) -> "Candidate":
        """The candidate of a bundle."""
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
        """The damages in its training degradation; a mix counts with all its kinds."""
        kinds = re.findall(r"[a-z][a-z0-9_]*", self.degradation)
        return frozenset().union(
            *(DEGRADATIONS.get(kind).damages for kind in kinds if kind in DEGRADATIONS)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The selected model and the reason, as text."""

    model: str
    reason: str


def select_model(
    measured: Mapping[str, float], request: SelectionRequest, candidates: Sequence[Candidate]
) -> ModelChoice:
    """Select the candidate for a picture with these features (`degradation_features.examine`).

    Criteria in this order: scale and task; the deadline; training on the most of the detected
    damages; training on the fewest others; the best PSNR under the protocol that most of the
    remaining candidates state; the first named. Raises NoModelFits.
    """
    fitting = _of_task_and_scale(measured, request, candidates)
    in_time, deadline_note = _within_deadline(measured, request, fitting)
    rules = [rule for rule in DEGRADATION_RULES if rule.matches(measured)]
    damages = frozenset(rule.damage for rule in rules)
    best = _best_psnr(_best_trained(damages, in_time))
    return ModelChoice(model=best.name, reason=_reason(measured, rules, best, deadline_note))


def _of_task_and_scale(
    measured: Mapping[str, float], request: SelectionRequest, candidates: Sequence[Candidate]
) -> list[Candidate]:
    of_task = [each for each in candidates if request.task in (None, each.task)]
    scales = sorted({each.scale for each in of_task})
    scale = request.scale
    if scale is None and scales:
        rule = next(rule for rule in SIZE_RULES if measured["megapixels"] <= rule.max_megapixels)
        scale = max((each for each in scales if each <= rule.scale), default=scales[0])
    fitting = [each for each in of_task if each.scale == scale]
    if not fitting:
        requirement = " ".join(
            part
            for part in (f"of scale {request.scale}" if request.scale else "", request.task or "")
            if part
        )
        available = ", ".join(f"{each.name} (x{each.scale}, {each.task})" for each in candidates)
        raise NoModelFits(f"no model {requirement or 'at all'}; there are: {available or 'none'}")
    return fitting


def _within_deadline(
    measured: Mapping[str, float], request: SelectionRequest, candidates: list[Candidate]
) -> tuple[list[Candidate], str]:
    """The candidates that are fast enough or not measured; else only the fastest."""
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
    return [fastest], f"; none takes at most {deadline:g} s, and this is the fastest"


def _best_trained(damages: frozenset[str], candidates: list[Candidate]) -> list[Candidate]:
    """The candidates trained for the most of the damages, and then for the fewest others."""

    def fit(candidate: Candidate) -> tuple[int, int]:
        trained = candidate.trained_for
        return len(damages & trained), -len(trained - damages)

    top = max(fit(each) for each in candidates)
    return [each for each in candidates if fit(each) == top]


def _best_psnr(candidates: list[Candidate]) -> Candidate:
    """The best PSNR under the protocol that most candidates state; without one, the first named."""
    stated = Counter(protocol for each in candidates for protocol in each.psnr)
    if not stated or max(stated.values()) == 1:
        return candidates[0]
    protocol = min(stated, key=lambda each: (-stated[each], str(each)))
    return max(
        (each for each in candidates if protocol in each.psnr),
        key=lambda each: each.psnr[protocol],
    )


def _reason(
    measured: Mapping[str, float],
    rules: Sequence[DegradationRule],
    best: Candidate,
    deadline_note: str,
) -> str:
    if not rules:
        findings = "no damage found"
    else:
        findings = ", ".join(
            f"{rule.damage} ({rule.feature} {measured[rule.feature]:.3g}, {rule.when} "
            f"{rule.limit:g})"
            for rule in rules
        )
    untrained = [rule.damage for rule in rules if rule.damage not in best.trained_for]
    lacking = f", which was not trained for {' and '.join(untrained)} input" if untrained else ""
    return f"{findings}: {best.name} ({best.degradation}){lacking}{deadline_note}"


def rule_tables() -> str:
    """The tables above as Markdown, for the documentation."""
    rules = [
        f"| {rule.damage} | `{rule.feature}` {rule.when} {rule.limit:g} | {_kinds(rule.damage)} |"
        for rule in DEGRADATION_RULES
    ]
    sizes = [
        f"| {'larger' if rule.max_megapixels == float('inf') else f'{rule.max_megapixels:g}'} "
        f"| {rule.scale} |"
        for rule in SIZE_RULES
    ]
    return "\n".join(
        [
            "| damage | detected by | models trained with |",
            "|---|---|---|",
            *rules,
            "",
            "| input of at most, megapixels | default scale |",
            "|---|---|",
            *sizes,
        ]
    )


def _kinds(damage: str) -> str:
    kinds = (kind for kind in DEGRADATIONS.built_in if damage in DEGRADATIONS.get(kind).damages)
    return ", ".join(f"`{kind}`" for kind in kinds)
