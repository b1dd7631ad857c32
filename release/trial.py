"""Scores challenger, champion and bicubic on the same held-out pictures, in one run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from release.bootstrap import PairedErrors
from superres.analysis.degradation_features import measure
from superres.common.console import track
from superres.common.errors import SharplineError
from superres.evaluation.evaluate import EvaluatedPair, Pair, PairSet, evaluate_pairs
from superres.image.crop import crop_corner
from superres.model.upscaler import Upscaler
from superres.quality import Protocol, psnr, psnr_of_mse, squared_error, ssim
from superres.quality.blocks import Floats, Grid
from superres.quality.intervals import MIN_ERROR
from superres.quality.metric import Metric, NotMeasurable

Array = npt.NDArray[Any]
Baseline = Literal["champion", "bicubic"]

MAX_PSNR = psnr_of_mse(MIN_ERROR)
CROP_PIXELS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureMetrics:
    """PSNR in dB, capped at MAX_PSNR, and SSIM."""

    psnr: float
    ssim: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChampionOutput:
    """The champion's output for one pair and its scores."""

    rgb_hwc: Array
    metrics: PictureMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureTrial:
    """Results of all models on one picture.

    `features` are those of the low-resolution input, `errors` maps models to sums of squared
    errors per block, `counts` are pixels per block, `perception` maps metric and model to a value.
    """

    name: str
    features: dict[str, float]
    challenger: PictureMetrics
    champion: PictureMetrics | None
    bicubic: PictureMetrics
    errors: Mapping[str, Floats]
    counts: Floats
    perception: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict[str, Mapping[str, float]]
    )

    def against(self, baseline: Baseline) -> PairedErrors:
        """The challenger's and the baseline's errors, block by block."""
        return PairedErrors(
            name=self.name,
            ours=self.errors["challenger"],
            theirs=self.errors[baseline],
            values=self.counts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialExample:
    """The same crop of every output, for the report.

    `panels` are bicubic, champion (where there is one), challenger, truth.
    """

    name: str
    gain_db: float
    panels: tuple[Array, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The whole run; `baseline` is the model to beat.

    `unmeasured` maps each required perceptual metric that could not be measured to the reason.
    """

    protocol: Protocol
    baseline: Baseline
    pictures: tuple[PictureTrial, ...]
    worst: TrialExample
    best: TrialExample
    unmeasured: Mapping[str, str] = field(default_factory=dict[str, str])


def run_trial(
    challenger: Upscaler,
    champion: Upscaler | None,
    pairs: PairSet,
    channel: str,
    block_pixels: int,
    metrics: Sequence[Metric] = (),
) -> Trial:
    """Score both models and bicubic picture by picture; keep the crops of two pictures only.

    `metrics` are measured besides PSNR and SSIM; one that fails on a picture is dropped for all.

    Raises SharplineError where there is no pair or one does not fit the scale.
    """
    protocol = pairs.protocol(channel)
    baseline: Baseline = "bicubic" if champion is None else "champion"
    pictures: list[PictureTrial] = []
    worst: TrialExample | None = None
    best: TrialExample | None = None
    unmeasured: dict[str, str] = {}
    for ours, theirs in _evaluated_pairs(challenger, champion, pairs, protocol):
        picture, grid = _picture_trial(ours, theirs, protocol, block_pixels)
        measurable = [metric for metric in metrics if metric.name not in unmeasured]
        perception = _perception(ours, theirs, protocol, measurable, unmeasured)
        picture = replace(picture, perception=perception)
        pictures.append(picture)
        gain_db = picture.challenger.psnr - _baseline_metrics(picture).psnr
        if worst is None or gain_db < worst.gain_db:
            worst = _example(picture, grid, baseline, ours, theirs, gain_db, best=False)
        if best is None or gain_db > best.gain_db:
            best = _example(picture, grid, baseline, ours, theirs, gain_db, best=True)
    if worst is None or best is None:
        raise SharplineError("there is no held-out picture to judge on")
    return Trial(
        protocol=protocol,
        baseline=baseline,
        pictures=tuple(pictures),
        worst=worst,
        best=best,
        unmeasured=unmeasured,
    )


def _evaluated_pairs(
    challenger: Upscaler, champion: Upscaler | None, pairs: PairSet, protocol: Protocol
) -> Iterator[tuple[EvaluatedPair, ChampionOutput | None]]:
    """Both models' outputs for each pair; each pair is read, and bicubic scored, once."""
    tracked = track(pairs.pairs, "judging", total=len(pairs.names))
    for ours in evaluate_pairs(challenger, tracked, protocol):
        theirs = None if champion is None else _champion_output(champion, ours.pair, protocol)
        yield ours, theirs


def _champion_output(champion: Upscaler, pair: Pair, protocol: Protocol) -> ChampionOutput:
    rgb_hwc, truth_hwc = champion.upscale(pair.lr).rgb_hwc, pair.hr.rgb_hwc
    metrics = _metrics(psnr(rgb_hwc, truth_hwc, protocol), ssim(rgb_hwc, truth_hwc, protocol))
    return ChampionOutput(rgb_hwc=rgb_hwc, metrics=metrics)


def _picture_trial(
    ours: EvaluatedPair, theirs: ChampionOutput | None, protocol: Protocol, block_pixels: int
) -> tuple[PictureTrial, Grid]:
    truth_hwc = ours.pair.hr.rgb_hwc
    outputs_hwc = {"challenger": ours.rgb_hwc, "bicubic": ours.bicubic_hwc}
    if theirs is not None:
        outputs_hwc["champion"] = theirs.rgb_hwc
    errors_hw = {
        model: squared_error(output_hwc, truth_hwc, protocol)
        for model, output_hwc in outputs_hwc.items()
    }
    height, width = errors_hw["challenger"].shape
    grid = Grid.over(height, width, block_pixels)
    picture = PictureTrial(
        name=ours.pair.name,
        features=measure(ours.pair.lr.rgb_hwc),
        challenger=_metrics(ours.score.psnr, ours.score.ssim),
        champion=None if theirs is None else theirs.metrics,
        bicubic=_metrics(ours.score.bicubic_psnr, ours.score.bicubic_ssim),
        errors={model: grid.sums(error_hw) for model, error_hw in errors_hw.items()},
        counts=grid.counts,
    )
    return picture, grid


def _perception(
    ours: EvaluatedPair,
    theirs: ChampionOutput | None,
    protocol: Protocol,
    metrics: Sequence[Metric],
    unmeasured: dict[str, str],
) -> dict[str, dict[str, float]]:
    """Values by metric and model; a metric that fails goes into `unmeasured`."""
    outputs_hwc = {"challenger": ours.rgb_hwc, "bicubic": ours.bicubic_hwc}
    if theirs is not None:
        outputs_hwc["champion"] = theirs.rgb_hwc
    truth_hwc = ours.pair.hr.rgb_hwc
    values: dict[str, dict[str, float]] = {}
    for metric in metrics:
        try:
            values[metric.name] = {
                model: metric.compute(output_hwc, truth_hwc, protocol)
                for model, output_hwc in outputs_hwc.items()
            }
        except NotMeasurable as error:
            unmeasured[metric.name] = f"{ours.pair.name}: {error}"
    return values


def _metrics(psnr: float, ssim: float) -> PictureMetrics:
    return PictureMetrics(psnr=psnr if math.isfinite(psnr) else MAX_PSNR, ssim=ssim)


def _baseline_metrics(picture: PictureTrial) -> PictureMetrics:
    return picture.bicubic if picture.champion is None else picture.champion


def _example(
    picture: PictureTrial,
    grid: Grid,
    baseline: Baseline,
    ours: EvaluatedPair,
    theirs: ChampionOutput | None,
    gain_db: float,
    *,
    best: bool,
) -> TrialExample:
    """Crops around the block with the challenger's largest or smallest gain."""
    pair = picture.against(baseline)
    gains = np.log(pair.theirs + MIN_ERROR) - np.log(pair.ours + MIN_ERROR)
    centre = grid.centre(int(np.argmax(gains) if best else np.argmin(gains)))
    pictures_hwc = [ours.bicubic_hwc, ours.rgb_hwc, ours.pair.hr.rgb_hwc]
    if theirs is not None:
        pictures_hwc.insert(1, theirs.rgb_hwc)
    # Copies, so that the crops do not keep the whole pictures in memory.
    panels = tuple(_crop(picture_hwc, centre).copy() for picture_hwc in pictures_hwc)
    return TrialExample(name=picture.name, gain_db=gain_db, panels=panels)


def _crop(rgb_hwc: Array, centre: tuple[int, int]) -> Array:
    top, left = crop_corner(rgb_hwc.shape[0], rgb_hwc.shape[1], centre, CROP_PIXELS)
    return rgb_hwc[top : top + CROP_PIXELS, left : left + CROP_PIXELS]
