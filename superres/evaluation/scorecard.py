"""All that is known of a model on a set of pictures: every figure with its protocol and interval.

`evaluate` is the quick way that training and the gate take; this is the long one, for people.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.evaluation.evaluate import EvaluatedPair, Pair, require_sizes, scored
from superres.model.bundle import Bundle
from superres.model.seams import TiledAndWhole, both_ways
from superres.model.upscaler import Upscaler
from superres.quality import Protocol, ProtocolMismatch, require_same, squared_error
from superres.quality.blocks import Grid
from superres.quality.intervals import Interval, gain_interval, mean_interval, psnr_interval
from superres.quality.metric import Metric, NotMeasurable

Array = NDArray[Any]

BLOCK_PIXELS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPair:
    """One figure of one picture: the model's, and that of bicubic enlargement."""

    ours: float
    bicubic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureCard:
    """One picture's figures by metric; PSNR's intervals are over its blocks.

    `refused` says by metric why the picture does not have it; `seam_levels` is the largest
    difference that tiles make, in grey levels of 255, None where only one way was run.
    """

    name: str
    figures: Mapping[str, MetricPair]
    refused: Mapping[str, str]
    psnr_interval: Interval | None
    psnr_gain_interval: Interval | None
    seam_levels: float | None
    seam_psnr_change: float | None

    @property
    def psnr_gain(self) -> float:
        """In dB over bicubic; where both equal the truth, none."""
        return _gain(self.figures["psnr"].ours, self.figures["psnr"].bicubic)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSummary:
    """One figure's mean over all pictures, with its interval, and its gain over bicubic's.

    Positive gains are better, whichever way the figure itself is.
    """

    metric: Metric
    protocol: Protocol
    mean: float
    interval: Interval | None
    bicubic: float
    gain: float
    gain_interval: Interval | None

    def better_by(self, other: "MetricSummary") -> float:
        """How much better this mean is than another's. Raises ProtocolMismatch."""
        ours, theirs = self.metric, other.metric
        if (ours.name, ours.variant) != (theirs.name, theirs.variant):
            raise ProtocolMismatch(
                f"{ours.title} ({ours.variant}) and {theirs.title} ({theirs.variant}) cannot be "
                "compared; measure both again in one way"
            )
        require_same(self.protocol, other.protocol)
        return ours.gain(self.mean, other.mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """A model's figures on a set; `refused` says by metric why there is no mean of it.

    `way` is how the scored answers were made: in tiles as served, or whole.
    """

    bundle: Bundle
    protocol: Protocol
    way: str
    figures: tuple[MetricSummary, ...]
    refused: Mapping[str, str]
    pictures: tuple[PictureCard, ...]

    def figure(self, name: str) -> MetricSummary | None:
        """A figure by the metric's name, None where it was refused or not asked for."""
        return next((each for each in self.figures if each.metric.name == name), None)

    @property
    def seam_levels(self) -> float | None:
        """The largest difference that tiles make anywhere, in grey levels of 255."""
        known = [card.seam_levels for card in self.pictures if card.seam_levels is not None]
        return max(known, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureReport:
    """A picture as it is scored, for those who want to see it; `ways` where both were run."""

    answer: EvaluatedPair
    card: PictureCard
    ways: TiledAndWhole | None


def make_scorecard(
    upscaler: Upscaler,
    pairs: Iterable[Pair],
    protocol: Protocol,
    metrics: Sequence[Metric],
    *,
    refused: Mapping[str, str] | None = None,
    whole: bool = False,
    compare_ways: bool = False,
    report: Callable[[PictureReport], None] = lambda report: None,
) -> Scorecard:
    """Score a model on pairs by every metric; `report` is shown each picture as it is done.

    `compare_ways` runs every picture in tiles and whole; `whole` says which of them is scored.
    `refused` carries metrics that could not be loaded. Raises SharplineError where there is no
    picture or a pair's sizes do not fit the scale.
    """
    cards: list[PictureCard] = []
    for answer, ways in _answers(upscaler, pairs, protocol, whole, compare_ways):
        card = _card(answer, ways, protocol, metrics)
        report(PictureReport(answer=answer, card=card, ways=ways))
        cards.append(card)
    if not cards:
        raise SharplineError("there is no picture to score a model on")
    figures = [_figure(metric, cards, protocol) for metric in metrics]
    small = {metric.name: _why_not(metric.name, cards) for metric in metrics}
    return Scorecard(
        bundle=upscaler.bundle,
        protocol=protocol,
        way="whole" if whole else "tiled",
        figures=tuple(figure for figure in figures if figure is not None),
        refused={**(refused or {}), **{name: why for name, why in small.items() if why}},
        pictures=tuple(cards),
    )


def _answers(
    upscaler: Upscaler, pairs: Iterable[Pair], protocol: Protocol, whole: bool, compare_ways: bool
) -> Iterator[tuple[EvaluatedPair, TiledAndWhole | None]]:
    for pair in pairs:
        require_sizes(pair, protocol.scale)
        if not compare_ways:
            enlarged = upscaler.whole(pair.lr) if whole else upscaler.upscale(pair.lr)
            yield scored(pair, enlarged, protocol), None
            continue
        ways = both_ways(upscaler, pair.lr)
        yield scored(pair, ways.whole if whole else ways.tiled, protocol), ways


def _card(
    answer: EvaluatedPair, ways: TiledAndWhole | None, protocol: Protocol, metrics: Sequence[Metric]
) -> PictureCard:
    figures: dict[str, MetricPair] = {}
    refused: dict[str, str] = {}
    for metric in metrics:
        try:
            figures[metric.name] = _compared(metric, answer, protocol)
        except NotMeasurable as error:
            refused[metric.name] = str(error)
    truth_hwc = answer.pair.hr.rgb_hwc
    errors_hw = squared_error(answer.rgb_hwc, truth_hwc, protocol)
    height, width = errors_hw.shape
    grid = Grid.over(height, width, BLOCK_PIXELS)
    ours = grid.sums(errors_hw)
    theirs = grid.sums(squared_error(answer.bicubic_hwc, truth_hwc, protocol))
    change = None
    if ways is not None:
        both = [scored(answer.pair, way, protocol).score.psnr for way in (ways.tiled, ways.whole)]
        change = _gain(*both)
    return PictureCard(
        name=answer.pair.name,
        figures=figures,
        refused=refused,
        psnr_interval=psnr_interval(ours, grid.counts),
        psnr_gain_interval=gain_interval(ours, theirs, grid.counts),
        seam_levels=None if ways is None else float(ways.levels_hw.max()),
        seam_psnr_change=change,
    )


def _compared(metric: Metric, answer: EvaluatedPair, protocol: Protocol) -> MetricPair:
    score = answer.score
    if metric.name == "psnr":
        return MetricPair(ours=score.psnr, bicubic=score.bicubic_psnr)
    if metric.name == "ssim":
        return MetricPair(ours=score.ssim, bicubic=score.bicubic_ssim)
    truth_hwc = answer.pair.hr.rgb_hwc
    return MetricPair(
        ours=metric.compute(answer.rgb_hwc, truth_hwc, protocol),
        bicubic=metric.compute(answer.bicubic_hwc, truth_hwc, protocol),
    )


def _figure(
    metric: Metric, cards: Sequence[PictureCard], protocol: Protocol
) -> MetricSummary | None:
    """The mean over every picture, None where one lacks it: a mean of some is another figure."""
    pairs = [card.figures[metric.name] for card in cards if metric.name in card.figures]
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


def _why_not(name: str, cards: Sequence[PictureCard]) -> str | None:
    lacking = [card for card in cards if name in card.refused]
    if not lacking:
        return None
    first = f"{lacking[0].name}: {lacking[0].refused[name]}"
    return f"{len(lacking)} of {len(cards)} pictures do not have it ({first})"


def _gain(ours: float, theirs: float) -> float:
    """The difference; two infinite figures are equal."""
    return 0.0 if ours == theirs else ours - theirs


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A figure as text; the PSNR of equal pictures is `equal`."""
    if math.isinf(value):
        return "equal"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def digits_of(figure: MetricSummary) -> int:
    """Decimals that are worth showing."""
    return 2 if figure.metric.name in ("psnr", "niqe") else 4
