"""Apply the rules to a trial: one outcome for each rule, with a reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from release.bootstrap import Gain, TooFewPictures, paired_gain
from release.bounds import MeasuredBounds
from release.cost import MeasuredCosts
from release.evidence import Outcome
from release.perception import NO_CHAMPION, judge_perception, judge_slice
from release.rules import CostLimits, Floor, Resampling, Rules, Slice
from release.trial import Baseline, PictureTrial, Trial
from superres.model.bundle import Bounds, Licence

MEGABYTE = 1_000_000
NOT_THIS_KIND = "the rule is not for models trained with a discriminator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Every rule's outcome, and the measured gains."""

    outcomes: tuple[Outcome, ...]
    over_champion: Gain | None
    over_bicubic: Gain | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Licences:
    """The weight licences of both models, as their bundles state them."""

    challenger: Licence
    champion: Licence | None


def judge(
    rules: Rules,
    trial: Trial,
    stated: Bounds,
    measured: MeasuredBounds,
    costs: MeasuredCosts,
    licences: Licences,
) -> Judgement:
    """Apply every rule; a rule that cannot be judged has an outcome that says why."""
    gains: dict[Baseline, Gain | None] = {}
    outcomes: list[Outcome] = []
    limits: tuple[tuple[Baseline, float | None], ...] = (
        ("champion", rules.min_gain_over_champion_db),
        ("bicubic", rules.min_gain_over_bicubic_db),
    )
    for baseline, limit in limits:
        outcome, gains[baseline] = _gain(rules, trial, baseline, limit)
        outcomes.append(outcome)
    outcomes.append(_ssim(rules, trial))
    if rules.perception is not None:
        outcomes += judge_perception(rules.perception, trial, rules.resampling)
    for slice_ in rules.slices:
        members = [picture for picture in trial.pictures if slice_.contains(picture.features)]
        if slice_.max_loss_db is not None:
            outcomes.append(_slice(rules, trial, slice_, members, slice_.max_loss_db))
        outcomes += judge_slice(slice_, members, trial, rules.resampling)
    outcomes += [
        *(_floor(trial, floor) for floor in rules.floors),
        _bound("seams", rules.max_seam_levels, stated.seam_levels, measured.seam_levels),
        _bound(
            f"precision {measured.precision}",
            rules.max_precision_levels,
            stated.precision_levels.get(measured.precision, 0.0),
            measured.precision_levels,
        ),
        _speed(rules.cost, costs),
        _memory(rules.cost, costs),
        _licence(rules, licences),
    ]
    return Judgement(
        outcomes=tuple(outcomes), over_champion=gains["champion"], over_bicubic=gains["bicubic"]
    )


def _gain(
    rules: Rules, trial: Trial, baseline: Baseline, limit: float | None
) -> tuple[Outcome, Gain | None]:
    rule = f"gain over {baseline}"
    if baseline == "champion" and trial.baseline == "bicubic":
        return Outcome.not_judged(rule, limit, NO_CHAMPION), None
    try:
        gain = paired_gain(
            [picture.against(baseline) for picture in trial.pictures], rules.resampling
        )
    except TooFewPictures as error:
        passed = False if limit is not None else None
        outcome = Outcome(rule=rule, passed=passed, value=None, limit=limit, why=str(error))
        return outcome, None
    measured = (
        f"{gain.mean_db:+.3f} dB over {baseline} on {gain.pictures} pictures; with "
        f"{gain.confidence:.0%} confidence at least {gain.lower_db:+.3f} dB"
    )
    if limit is None:
        return Outcome.not_judged(rule, None, f"{measured}; {NOT_THIS_KIND}"), gain
    why = f"{measured}; {limit:+.3f} dB {'was' if gain.lower_db >= limit else 'is'} required"
    return Outcome.at_least(rule, gain.lower_db, limit, why), gain


def _ssim(rules: Rules, trial: Trial) -> Outcome:
    ours = fmean(picture.challenger.ssim for picture in trial.pictures)
    theirs = fmean((picture.champion or picture.bicubic).ssim for picture in trial.pictures)
    rule, loss, limit = f"SSIM against {trial.baseline}", theirs - ours, rules.max_ssim_loss
    measured = f"mean SSIM {ours:.4f} against {theirs:.4f}"
    if limit is None:
        return Outcome.not_judged(rule, None, f"{measured}; {NOT_THIS_KIND}")
    return Outcome.at_most(rule, loss, limit, f"{measured}; a loss of {limit} is allowed")


def _slice(
    rules: Rules,
    trial: Trial,
    slice_: Slice,
    members: Sequence[PictureTrial],
    max_loss_db: float,
) -> Outcome:
    rule, limit = f"no loss on {slice_.name} pictures", -max_loss_db
    if len(members) < slice_.min_pictures:
        return Outcome.not_judged(rule, limit, slice_.too_few(len(members)))
    try:
        gain = paired_gain(
            [picture.against(trial.baseline) for picture in members],
            _for_slice(rules.resampling, slice_),
        )
    except TooFewPictures as error:
        return Outcome.not_judged(rule, limit, str(error))
    why = (
        f"{gain.mean_db:+.3f} dB against {trial.baseline} on {len(members)} {slice_.name} "
        f"pictures, at least {gain.lower_db:+.3f} dB; {limit:+.3f} dB is the limit"
    )
    return Outcome.at_least(rule, gain.lower_db, limit, why)


def _for_slice(resampling: Resampling, slice_: Slice) -> Resampling:
    """The slice's own minimum number of pictures, and blocks in proportion."""
    share = slice_.min_pictures / resampling.min_pictures
    min_numbers = {
        "min_pictures": slice_.min_pictures,
        "min_blocks": round(resampling.min_blocks * share),
    }
    return resampling.model_copy(update=min_numbers)


def _floor(trial: Trial, floor: Floor) -> Outcome:
    protocol = floor.protocol
    rule = f"floor on {protocol.dataset} x{protocol.scale} {protocol.channel.upper()}"
    if not protocol.matches(trial.protocol):
        return Outcome.not_judged(rule, floor.psnr, f"this run is on {trial.protocol}")
    psnr = fmean(picture.challenger.psnr for picture in trial.pictures)
    ssim = fmean(picture.challenger.ssim for picture in trial.pictures)
    return Outcome(
        rule=rule,
        passed=psnr >= floor.psnr and ssim >= floor.ssim,
        value=psnr,
        limit=floor.psnr,
        why=f"{psnr:.2f} dB / {ssim:.4f}; at least {floor.psnr} dB / {floor.ssim} is required",
    )


def _bound(what: str, limit: float, stated: float, measured: float) -> Outcome:
    value = max(stated, measured)
    return Outcome.at_most(
        f"bound of {what}",
        value,
        limit,
        f"{what}: {stated:.3f} grey levels stated, {measured:.3f} measured here; at most "
        f"{limit} is allowed",
    )


def _speed(limits: CostLimits, costs: MeasuredCosts) -> Outcome:
    rule, limit = "speed against champion", limits.max_seconds_ratio
    ours, champion = costs.challenger.seconds, costs.champion
    if champion is None:
        why = f"there is no champion yet; inference took {ours:.3f} s"
        return Outcome.not_judged(rule, limit, why)
    ratio = ours / champion.seconds
    return Outcome.at_most(
        rule,
        ratio,
        limit,
        f"{ours:.3f} s against {champion.seconds:.3f} s for the same picture, medians of "
        f"{costs.rounds} rounds; at most {limit} times as long is allowed",
    )


def _memory(limits: CostLimits, costs: MeasuredCosts) -> Outcome:
    rule, limit = "memory against champion", limits.max_memory_ratio
    ours, champion = costs.challenger.memory_bytes, costs.champion
    if champion is None:
        return Outcome.not_judged(rule, limit, "there is no champion yet")
    theirs = champion.memory_bytes
    if ours is None or theirs is None:
        why = "this system does not report the memory of a process"
        return Outcome.not_judged(rule, limit, why)
    ratio = ours / max(theirs, 1)
    free = limits.free_megabytes
    return Outcome(
        rule=rule,
        passed=ratio <= limit or ours - theirs <= free * MEGABYTE,
        value=ratio,
        limit=limit,
        why=f"{ours / MEGABYTE:.0f} MB against {theirs / MEGABYTE:.0f} MB for the same picture; at "
        f"most {limit} times as much, or {free:.0f} MB more, is allowed",
    )


def _licence(rules: Rules, licences: Licences) -> Outcome:
    rule, required = "licence", rules.commercial_use
    ours, champion = licences.challenger, licences.champion
    why = f"commercial use: {ours.commercial_use}"
    passed: bool = required != "yes" or ours.commercial_use == "yes"
    if required == "as the champion" and champion is not None:
        order = ("no", "unclear", "yes")
        passed = order.index(ours.commercial_use) >= order.index(champion.commercial_use)
        why += f", the champion's: {champion.commercial_use}"
    if not ours.weights.strip():
        passed, why = False, "the bundle states no licence for its weights"
    return Outcome(
        rule=rule, passed=passed, value=None, limit=None, why=f"{why}; required: {required}"
    )
