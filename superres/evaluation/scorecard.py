"""The scorecard of a model on a set: every metric with its protocol and confidence interval.

Training and the gate use the faster `evaluate`; the scorecard is for people.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.evaluation.evaluate import (
    EvaluatedPair,
    Pair,
    evaluate_pairs,
    require_sizes,
    score_pair,
)
from superres.model.bundle import Bundle
from superres.model.seams import TiledAndWhole, run_tiled_and_whole
from superres.model.upscaler import Upscaler
from superres.quality import Protocol, ProtocolMismatch, require_same, squared_error
from superres.quality.blocks import Grid
from superres.quality.intervals import Interval, gain_interval, mean_interval, psnr_interval
from superres.quality.metric import Metric, NotMeasurable

Array = NDArray[Any]

BLOCK_PIXELS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPair:
    """A metric of one picture: the model's value and bicubic enlargement's."""

    ours: float
    bicubic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureCard:
    """One picture's metrics by name; PSNR's intervals are over its blocks.

    `refused` holds by metric name why it is undefined for the picture; `seam_levels` is the largest
    difference between tiled and whole-picture inference, in grey levels of 255, None if only one of
    them was run.
    """

    name: str
    metrics: Mapping[str, MetricPair]
    refused: Mapping[str, str]
    psnr_interval: Interval | None
    psnr_gain_interval: Interval | None
    seam_levels: float | None
    seam_psnr_change: float | None

    @property
    def psnr_gain(self) -> float:
        """PSNR gain over bicubic in dB; 0 if both equal the ground truth."""
        return _gain(self.metrics["psnr"].ours, self.metrics["psnr"].bicubic)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSummary:
    """A metric's mean over all pictures, with its interval, and its gain over bicubic.

    Positive gains are better, whatever the metric's direction.
    """

    metric: Metric
    protocol: Protocol
    mean: float
    interval: Interval | None
    bicubic: float
    gain: float
    gain_interval: Interval | None

    def better_by(self, other: "MetricSummary") -> float:
        """How much better this mean is than the other's. Raises ProtocolMismatch."""
        ours, theirs = self.metric, other.metric
        if (ours.name, ours.variant) != (theirs.name, theirs.variant):
            raise ProtocolMismatch(
                f"{ours.title} ({ours.variant}) and {theirs.title} ({theirs.variant}) cannot be "
                "compared; measure both again with one variant"
            )
        require_same(self.protocol, other.protocol)
        return ours.gain(self.mean, other.mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """A model's metrics on a set; `refused` holds by metric name why it has no mean.

    `mode` is how the scored outputs were computed: `tiled`, as in serving, or `whole`.
    """

    bundle: Bundle
    protocol: Protocol
    mode: str
    summaries: tuple[MetricSummary, ...]
    refused: Mapping[str, str]
    pictures: tuple[PictureCard, ...]

    def summary(self, name: str) -> MetricSummary | None:
        """A summary by the metric's name, None if refused or not requested."""
        return next((each for each in self.summaries if each.metric.name == name), None)

    @property
    def seam_levels(self) -> float | None:
        """The largest difference between tiled and whole-picture inference, in levels of 255."""
        levels = [card.seam_levels for card in self.pictures if card.seam_levels is not None]
        return max(levels, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureReport:
    """A scored picture with its pixels; `comparison` is None unless tiles were compared."""

    evaluated: EvaluatedPair
    card: PictureCard
    comparison: TiledAndWhole | None


def make_scorecard(
    upscaler: Upscaler,
    pairs: Iterable[Pair],
    protocol: Protocol,
    metrics: Sequence[Metric],
    *,
    refused: Mapping[str, str] | None = None,
    whole: bool = False,
    compare_tiling: bool = False,
    report: Callable[[PictureReport], None] = lambda report: None,
) -> Scorecard:
    """Score a model on pairs by every metric; `report` is called with each scored picture.

    `compare_tiling` runs every picture both in tiles and whole; `whole` selects which is scored.
    `refused` holds the metrics that could not be loaded. Raises SharplineError if there is no
    picture or a pair's sizes do not match the scale.
    """
    cards: list[PictureCard] = []
    for evaluated, comparison in _evaluate_pairs(upscaler, pairs, protocol, whole, compare_tiling):
        card = _card(evaluated, comparison, protocol, metrics)
        report(PictureReport(evaluated=evaluated, card=card, comparison=comparison))
        cards.append(card)
    if not cards:
        raise SharplineError("there is no picture to score a model on")
    summaries = [_summarise(metric, cards, protocol) for metric in metrics]
    missing = {metric.name: _missing_reason(metric.name, cards) for metric in metrics}
    return Scorecard(
        bundle=upscaler.bundle,
        protocol=protocol,
        mode="whole" if whole else "tiled",
        summaries=tuple(summary for summary in summaries if summary is not None),
        refused={**(refused or {}), **{name: why for name, why in missing.items() if why}},
        pictures=tuple(cards),
    )


def _evaluate_pairs(
    upscaler: Upscaler, pairs: Iterable[Pair], protocol: Protocol, whole: bool, compare_tiling: bool
) -> Iterator[tuple[EvaluatedPair, TiledAndWhole | None]]:
    if not compare_tiling:
        for evaluated in evaluate_pairs(upscaler, pairs, protocol, whole=whole):
            yield evaluated, None
        return
    for pair in pairs:
        require_sizes(pair, protocol.scale)
        comparison = run_tiled_and_whole(upscaler, pair.lr)
        enlarged = comparison.whole if whole else comparison.tiled
        yield score_pair(pair, enlarged, protocol), comparison


def _card(
    evaluated: EvaluatedPair,
    comparison: TiledAndWhole | None,
    protocol: Protocol,
    metrics: Sequence[Metric],
) -> PictureCard:
    values: dict[str, MetricPair] = {}
    refused: dict[str, str] = {}
    for metric in metrics:
        try:
            values[metric.name] = _metric_pair(metric, evaluated, protocol)
        except NotMeasurable as error:
            refused[metric.name] = str(error)
    truth_hwc = evaluated.pair.hr.rgb_hwc
    errors_hw = squared_error(evaluated.rgb_hwc, truth_hwc, protocol)
    height, width = errors_hw.shape
    grid = Grid.over(height, width, BLOCK_PIXELS)
    ours = grid.sums(errors_hw)
    theirs = grid.sums(squared_error(evaluated.bicubic_hwc, truth_hwc, protocol))
    change = None
    if comparison is not None:
        both = [
            score_pair(evaluated.pair, output, protocol).score.psnr
            for output in (comparison.tiled, comparison.whole)
        ]
        change = _gain(*both)
    return PictureCard(
        name=evaluated.pair.name,
        metrics=values,
        refused=refused,
        psnr_interval=psnr_interval(ours, grid.counts),
        psnr_gain_interval=gain_interval(ours, theirs, grid.counts),
        seam_levels=None if comparison is None else float(comparison.levels_hw.max()),
        seam_psnr_change=change,
    )


def _metric_pair(metric: Metric, evaluated: EvaluatedPair, protocol: Protocol) -> MetricPair:
    score = evaluated.score
    if metric.name == "psnr":
        return MetricPair(ours=score.psnr, bicubic=score.bicubic_psnr)
    if metric.name == "ssim":
        return MetricPair(ours=score.ssim, bicubic=score.bicubic_ssim)
    truth_hwc = evaluated.pair.hr.rgb_hwc
    return MetricPair(
        ours=metric.compute(evaluated.rgb_hwc, truth_hwc, protocol),
        bicubic=metric.compute(evaluated.bicubic_hwc, truth_hwc, protocol),
    )


def _summarise(
    metric: Metric, cards: Sequence[PictureCard], protocol: Protocol
) -> MetricSummary | None:
    """The mean over all pictures, None if one lacks the metric: partial means do not compare."""
    pairs = [card.metrics[metric.name] for card in cards if metric.name in card.metrics]
    if len(pairs) < len(cards):
        return None
    ours, bicubic = [pair.ours for pair in pairs], [pair.bicubic for pair in pairs]
    sign = metric.gain(1.0, 0.0)
    gains = [sign * _gain(pair.ours, pair.bicubic) for pair in pairs]
    return MetricSummary(
        metric=metric,
        protocol=replace(protocol, channel="rgb") if metric.colour else protocol,
        mean=fmean(ours),
        interval=mean_interval(ours),
        bicubic=fmean(bicubic),
        gain=fmean(gains),
        gain_interval=mean_interval(gains),
    )


def _missing_reason(name: str, cards: Sequence[PictureCard]) -> str | None:
    lacking = [card for card in cards if name in card.refused]
    if not lacking:
        return None
    first = f"{lacking[0].name}: {lacking[0].refused[name]}"
    return f"{len(lacking)} of {len(cards)} pictures do not have it ({first})"


def _gain(ours: float, theirs: float) -> float:
    """The difference; 0 for two infinite values."""
    return 0.0 if ours == theirs else ours - theirs


def format_value(value: float, digits: int, *, signed: bool = False) -> str:
    """A metric value as text; `equal` for the infinite PSNR of equal pictures."""
    if math.isinf(value):
        return "equal"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def format_interval(interval: Interval, digits: int, *, signed: bool) -> tuple[str, str]:
    """The lower and the upper end as text."""
    lower, upper = (
        format_value(end, digits, signed=signed) for end in (interval.lower, interval.upper)
    )
    return lower, upper
