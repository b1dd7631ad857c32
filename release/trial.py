"""Challenger, champion and bicubic on the same held-out pictures, in one run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat, tee
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from release.bootstrap import PairedErrors
from superres.analysis.degradation_features import measure
from superres.common.console import track
from superres.common.errors import SharplineError
from superres.evaluation.evaluate import EvaluatedPair, PairSet, answers
from superres.model.upscaler import Upscaler
from superres.quality import Protocol, psnr_of_mse, squared_error
from superres.quality.blocks import Floats, Grid
from superres.quality.intervals import MIN_ERROR
from superres.quality.metric import Metric, NotMeasurable

Array = npt.NDArray[Any]
Rival = Literal["champion", "bicubic"]

MAX_PSNR = psnr_of_mse(MIN_ERROR)
CROP_PIXELS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """PSNR in dB, at most that of an error too small to matter, and SSIM."""

    psnr: float
    ssim: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureTrial:
    """How everybody did on one picture.

    `features` are those of the low-resolution input, `errors` the sums of squared errors per block
    by competitor, `counts` the pixels per block, `perception` by figure what each competitor has.
    """

    name: str
    features: dict[str, float]
    challenger: Figures
    champion: Figures | None
    bicubic: Figures
    errors: Mapping[str, Floats]
    counts: Floats
    perception: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict[str, Mapping[str, float]]
    )

    def against(self, rival: Rival) -> PairedErrors:
        """The challenger's and the rival's errors, block by block."""
        return PairedErrors(
            name=self.name,
            ours=self.errors["challenger"],
            theirs=self.errors[rival],
            values=self.counts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialExample:
    """The same telling crop of every competitor, side by side, for a person to look at.

    `panels` go bicubic, champion (where there is one), challenger, truth.
    """

    name: str
    gain_db: float
    panels: tuple[Array, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The whole run; `rival` is the one to beat.

    `unmeasured` says of perceptual figures that were asked for why there are none.
    """

    protocol: Protocol
    rival: Rival
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
    figures: Sequence[Metric] = (),
) -> Trial:
    """Score both models and bicubic picture by picture; only two pictures' crops are kept.

    `figures` are measured beside PSNR and SSIM; one that a picture cannot have is given up for all.

    Raises SharplineError where there is no pair or one does not fit the scale.
    """
    protocol = pairs.protocol(channel)
    rival: Rival = "bicubic" if champion is None else "champion"
    pictures: list[PictureTrial] = []
    worst: TrialExample | None = None
    best: TrialExample | None = None
    unmeasured: dict[str, str] = {}
    for ours, theirs in _both(challenger, champion, pairs, protocol):
        picture, grid = _picture_trial(ours, theirs, protocol, block_pixels)
        wanted = [figure for figure in figures if figure.name not in unmeasured]
        perception = _perception(ours, theirs, protocol, wanted, unmeasured)
        picture = replace(picture, perception=perception)
        pictures.append(picture)
        gain_db = picture.challenger.psnr - _rival_figures(picture).psnr
        if worst is None or gain_db < worst.gain_db:
            worst = _example(picture, grid, rival, ours, theirs, gain_db, best=False)
        if best is None or gain_db > best.gain_db:
            best = _example(picture, grid, rival, ours, theirs, gain_db, best=True)
    if worst is None or best is None:
        raise SharplineError("there is no held-out picture to judge on")
    return Trial(
        protocol=protocol,
        rival=rival,
        pictures=tuple(pictures),
        worst=worst,
        best=best,
        unmeasured=unmeasured,
    )


def _both(
    challenger: Upscaler, champion: Upscaler | None, pairs: PairSet, protocol: Protocol
) -> Iterator[tuple[EvaluatedPair, EvaluatedPair | None]]:
    """Both answers to each pair, each pair read once."""
    tracked = track(pairs.pairs, "judging", total=len(pairs.names))
    if champion is None:
        return zip(answers(challenger, tracked, protocol), repeat(None), strict=False)
    # In lockstep, so that no more than one pair waits for the slower one.
    for_ours, for_theirs = tee(tracked)
    return zip(
        answers(challenger, for_ours, protocol),
        answers(champion, for_theirs, protocol),
        strict=True,
    )


def _picture_trial(
    ours: EvaluatedPair, theirs: EvaluatedPair | None, protocol: Protocol, block_pixels: int
) -> tuple[PictureTrial, Grid]:
    truth_hwc = ours.pair.hr.rgb_hwc
    answers_hwc = {"challenger": ours.rgb_hwc, "bicubic": ours.bicubic_hwc}
    if theirs is not None:
        answers_hwc["champion"] = theirs.rgb_hwc
    maps = {
        who: squared_error(answer_hwc, truth_hwc, protocol)
        for who, answer_hwc in answers_hwc.items()
    }
    height, width = maps["challenger"].shape
    grid = Grid.over(height, width, block_pixels)
    picture = PictureTrial(
        name=ours.pair.name,
        features=measure(ours.pair.lr.rgb_hwc),
        challenger=_figures(ours.score.psnr, ours.score.ssim),
        champion=None if theirs is None else _figures(theirs.score.psnr, theirs.score.ssim),
        bicubic=_figures(ours.score.bicubic_psnr, ours.score.bicubic_ssim),
        errors={who: grid.sums(error_hw) for who, error_hw in maps.items()},
        counts=grid.counts,
    )
    return picture, grid


def _perception(
    ours: EvaluatedPair,
    theirs: EvaluatedPair | None,
    protocol: Protocol,
    figures: Sequence[Metric],
    unmeasured: dict[str, str],
) -> dict[str, dict[str, float]]:
    """By figure what each competitor has; a figure that fails goes into `unmeasured`."""
    answers_hwc = {"challenger": ours.rgb_hwc, "bicubic": ours.bicubic_hwc}
    if theirs is not None:
        answers_hwc["champion"] = theirs.rgb_hwc
    truth_hwc = ours.pair.hr.rgb_hwc
    found: dict[str, dict[str, float]] = {}
    for figure in figures:
        try:
            found[figure.name] = {
                who: figure.compute(answer_hwc, truth_hwc, protocol)
                for who, answer_hwc in answers_hwc.items()
            }
        except NotMeasurable as error:
            unmeasured[figure.name] = f"{ours.pair.name}: {error}"
    return found


def _figures(psnr: float, ssim: float) -> Figures:
    return Figures(psnr=psnr if math.isfinite(psnr) else MAX_PSNR, ssim=ssim)


def _rival_figures(picture: PictureTrial) -> Figures:
    return picture.bicubic if picture.champion is None else picture.champion


def _example(
    picture: PictureTrial,
    grid: Grid,
    rival: Rival,
    ours: EvaluatedPair,
    theirs: EvaluatedPair | None,
    gain_db: float,
    *,
    best: bool,
) -> TrialExample:
    """Crops around the block where the challenger gained most, or least."""
    pair = picture.against(rival)
    gains = np.log(pair.theirs + MIN_ERROR) - np.log(pair.ours + MIN_ERROR)
    centre = grid.centre(int(np.argmax(gains) if best else np.argmin(gains)))
    shown = [ours.bicubic_hwc, ours.rgb_hwc, ours.pair.hr.rgb_hwc]
    if theirs is not None:
        shown.insert(1, theirs.rgb_hwc)
    # Copies, so that the crops do not keep the whole pictures in memory.
    panels = tuple(_crop(panel_hwc, centre).copy() for panel_hwc in shown)
    return TrialExample(name=picture.name, gain_db=gain_db, panels=panels)


def _crop(rgb_hwc: Array, centre: tuple[int, int]) -> Array:
    height, width = rgb_hwc.shape[:2]
    top = max(0, min(centre[0] - CROP_PIXELS // 2, height - CROP_PIXELS))
    left = max(0, min(centre[1] - CROP_PIXELS // 2, width - CROP_PIXELS))
    return rgb_hwc[top : top + CROP_PIXELS, left : left + CROP_PIXELS]
