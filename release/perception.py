"""The rules for models that make up detail: perceptual figures, and PSNR only from below."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from release.evidence import Outcome
from release.rules import Perception, PerceptualGain, Resampling, Slice
from release.trial import PictureTrial, Rival, Trial
from superres.quality.blocks import Floats
from superres.quality.intervals import Interval, percentiles


def judge_perception(perception: Perception, trial: Trial, resampling: Resampling) -> list[Outcome]:
    """Every figure against champion and bicubic, and the floor of PSNR."""
    return [
        *(
            _gain(asked, trial, rival, resampling)
            for asked in perception.figures
            for rival in ("champion", "bicubic")
        ),
        _floor(perception, trial),
    ]


def judge_slice(part: Slice, trial: Trial, resampling: Resampling) -> list[Outcome]:
    """No loss on one kind of picture, by every figure that the slice names."""
    members = [picture for picture in trial.pictures if part.holds(picture.features)]
    return [
        _slice_outcome(part, figure, limit, members, trial, resampling)
        for figure, limit in (part.max_loss or {}).items()
    ]


def _gain(asked: PerceptualGain, trial: Trial, rival: Rival, resampling: Resampling) -> Outcome:
    figure, rule = asked.figure, f"{asked.figure} gain over {rival}"
    limit = asked.min_gain_over_bicubic
    if rival == "champion":
        limit = asked.min_gain_over_champion
        if trial.rival == "bicubic":
            why = "not judged: there is no champion yet: bicubic is the one to beat"
            return Outcome(rule=rule, passed=None, value=None, limit=limit, why=why)
    if figure in trial.unmeasured:
        why = f"{figure} cannot be measured, so nobody can say that it got better: "
        return Outcome(
            rule=rule, passed=False, value=None, limit=limit, why=why + trial.unmeasured[figure]
        )
    if len(trial.pictures) < resampling.min_pictures:
        why = (
            f"{len(trial.pictures)} pictures are too few for a verdict; the rules ask for "
            f"{resampling.min_pictures}: gate on more held-out pictures"
        )
        return Outcome(rule=rule, passed=False, value=None, limit=limit, why=why)
    mean, interval = _mean_gain(trial.pictures, figure, rival, resampling)
    return Outcome(
        rule=rule,
        passed=interval.lower >= limit,
        value=interval.lower,
        limit=limit,
        why=f"{figure} better by {mean:+.4f} than {rival} on {len(trial.pictures)} pictures; with "
        f"{resampling.confidence:.0%} confidence at least {interval.lower:+.4f}, and {limit:+.4f} "
        "is asked for",
    )


def _floor(perception: Perception, trial: Trial) -> Outcome:
    ours = fmean(picture.challenger.psnr for picture in trial.pictures)
    theirs = fmean(picture.bicubic.psnr for picture in trial.pictures)
    least = perception.min_psnr_over_bicubic_db
    return Outcome(
        rule="PSNR floor of bicubic",
        passed=ours - theirs >= least,
        value=ours - theirs,
        limit=least,
        why=f"mean PSNR {ours:.3f} dB against bicubic's {theirs:.3f} dB; at least {least:+.3f} dB "
        "above it is asked for",
    )


def _slice_outcome(
    part: Slice,
    figure: str,
    max_loss: float,
    members: Sequence[PictureTrial],
    trial: Trial,
    resampling: Resampling,
) -> Outcome:
    rule, limit = f"no {figure} loss on {part.name} pictures", -max_loss
    why = ""
    if len(members) < part.min_pictures:
        why = f"{len(members)} {part.name} pictures, fewer than the {part.min_pictures} needed"
    elif figure in trial.unmeasured:
        why = trial.unmeasured[figure]
    if why:
        return Outcome(rule=rule, passed=None, value=None, limit=limit, why=f"not judged: {why}")
    mean, interval = _mean_gain(members, figure, trial.rival, resampling)
    return Outcome(
        rule=rule,
        passed=interval.lower >= limit,
        value=interval.lower,
        limit=limit,
        why=f"{figure} better by {mean:+.4f} than {trial.rival} on {len(members)} {part.name} "
        f"pictures, at least {interval.lower:+.4f}; {limit:+.4f} is the limit",
    )


def _mean_gain(
    pictures: Sequence[PictureTrial], figure: str, rival: Rival, resampling: Resampling
) -> tuple[float, Interval]:
    """Of a figure that falls where a model is better, with the paired interval over pictures."""
    gains: Floats = np.array(
        [
            picture.perception[figure][rival] - picture.perception[figure]["challenger"]
            for picture in pictures
        ]
    )
    generator = np.random.default_rng(resampling.seed)
    drawn = generator.integers(len(gains), size=(resampling.resamples, len(gains)))
    return float(gains.mean()), percentiles(gains[drawn].mean(axis=1), resampling.confidence)
