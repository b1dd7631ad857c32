"""Rules for models trained with a discriminator: perceptual metrics, and a floor on PSNR."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from release.evidence import Outcome
from release.rules import Perception, PerceptualGain, Resampling, Slice
from release.trial import Baseline, PictureTrial, Trial
from superres.quality.blocks import Floats
from superres.quality.intervals import Interval, percentiles

NO_CHAMPION = "there is no champion yet: bicubic is the baseline"


def judge_perception(perception: Perception, trial: Trial, resampling: Resampling) -> list[Outcome]:
    """Every metric against champion and bicubic, and the floor on PSNR."""
    return [
        *(
            _gain(gain_rule, trial, baseline, resampling)
            for gain_rule in perception.metrics
            for baseline in ("champion", "bicubic")
        ),
        _floor(perception, trial),
    ]


def judge_slice(
    slice_: Slice, members: Sequence[PictureTrial], trial: Trial, resampling: Resampling
) -> list[Outcome]:
    """No loss on the pictures of one slice, by every metric that the slice names."""
    return [
        _slice_outcome(slice_, metric, limit, members, trial, resampling)
        for metric, limit in (slice_.max_loss or {}).items()
    ]


def _gain(
    gain_rule: PerceptualGain, trial: Trial, baseline: Baseline, resampling: Resampling
) -> Outcome:
    metric, rule = gain_rule.metric, f"{gain_rule.metric} gain over {baseline}"
    limit = gain_rule.min_gain_over_bicubic
    if baseline == "champion":
        limit = gain_rule.min_gain_over_champion
        if trial.baseline == "bicubic":
            return Outcome.not_judged(rule, limit, NO_CHAMPION)
    if metric in trial.unmeasured:
        why = f"{metric} could not be measured, so no gain is shown: {trial.unmeasured[metric]}"
        return Outcome(rule=rule, passed=False, value=None, limit=limit, why=why)
    if len(trial.pictures) < resampling.min_pictures:
        why = (
            f"{len(trial.pictures)} pictures are too few to decide; the rules require "
            f"{resampling.min_pictures}: gate on more held-out pictures"
        )
        return Outcome(rule=rule, passed=False, value=None, limit=limit, why=why)
    mean, interval = _mean_gain(trial.pictures, metric, baseline, resampling)
    return Outcome.at_least(
        rule,
        interval.lower,
        limit,
        f"{metric} better by {mean:+.4f} than {baseline} on {len(trial.pictures)} pictures; "
        f"with {resampling.confidence:.0%} confidence at least {interval.lower:+.4f}; "
        f"{limit:+.4f} is required",
    )


def _floor(perception: Perception, trial: Trial) -> Outcome:
    ours = fmean(picture.challenger.psnr for picture in trial.pictures)
    theirs = fmean(picture.bicubic.psnr for picture in trial.pictures)
    limit = perception.min_psnr_over_bicubic_db
    return Outcome.at_least(
        "PSNR floor of bicubic",
        ours - theirs,
        limit,
        f"mean PSNR {ours:.3f} dB against bicubic's {theirs:.3f} dB; a difference of at least "
        f"{limit:+.3f} dB is required",
    )


def _slice_outcome(
    slice_: Slice,
    metric: str,
    max_loss: float,
    members: Sequence[PictureTrial],
    trial: Trial,
    resampling: Resampling,
) -> Outcome:
    rule, limit = f"no {metric} loss on {slice_.name} pictures", -max_loss
    if len(members) < slice_.min_pictures:
        return Outcome.not_judged(rule, limit, slice_.too_few(len(members)))
    if metric in trial.unmeasured:
        return Outcome.not_judged(rule, limit, trial.unmeasured[metric])
    mean, interval = _mean_gain(members, metric, trial.baseline, resampling)
    return Outcome.at_least(
        rule,
        interval.lower,
        limit,
        f"{metric} better by {mean:+.4f} than {trial.baseline} on {len(members)} {slice_.name} "
        f"pictures, at least {interval.lower:+.4f}; {limit:+.4f} is the limit",
    )


def _mean_gain(
    pictures: Sequence[PictureTrial], metric: str, baseline: Baseline, resampling: Resampling
) -> tuple[float, Interval]:
    """Mean gain of a lower-is-better metric, with its paired interval over pictures."""
    gains: Floats = np.array(
        [
            picture.perception[metric][baseline] - picture.perception[metric]["challenger"]
            for picture in pictures
        ]
    )
    generator = np.random.default_rng(resampling.seed)
    drawn = generator.integers(len(gains), size=(resampling.resamples, len(gains)))
    return float(gains.mean()), percentiles(gains[drawn].mean(axis=1), resampling.confidence)
