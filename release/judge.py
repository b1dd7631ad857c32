"""The rules applied to a trial: one outcome each, with the reason in words."""

from dataclasses import dataclass
from statistics import fmean

from release.bootstrap import Gain, TooLittleToJudge, paired_gain
from release.bounds import MeasuredBounds
from release.evidence import Outcome
from release.rules import Floor, Resampling, Rules, Slice
from release.trial import Rival, Trial
from superres.bundle import Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Every rule's outcome, and the gains that they rest on."""

    outcomes: tuple[Outcome, ...]
    over_champion: Gain | None
    over_bicubic: Gain | None


def judge(rules: Rules, trial: Trial, stated: Bounds, measured: MeasuredBounds) -> Judgement:
    """Apply every rule; nothing is left out, what cannot be judged says so."""
    gains: dict[Rival, Gain | None] = {"champion": None, "bicubic": None}
    outcomes: list[Outcome] = []
    limits: tuple[tuple[Rival, float], ...] = (
        ("champion", rules.least_gain_over_champion_db),
        ("bicubic", rules.least_gain_over_bicubic_db),
    )
    for rival, limit in limits:
        outcome, gains[rival] = _gain(rules, trial, rival, limit)
        outcomes.append(outcome)
    outcomes += [
        _ssim(rules, trial),
        *(_slice(rules, trial, part) for part in rules.slices),
        *(_floor(trial, floor) for floor in rules.floors),
        _bound("seams", rules.most_seam_levels, stated.seam_levels, measured.seam_levels),
        _bound(
            f"precision {measured.precision}",
            rules.most_precision_levels,
            stated.precision_levels.get(measured.precision, 0.0),
            measured.precision_levels,
        ),
    ]
    return Judgement(
        outcomes=tuple(outcomes), over_champion=gains["champion"], over_bicubic=gains["bicubic"]
    )


def _gain(rules: Rules, trial: Trial, rival: Rival, limit: float) -> tuple[Outcome, Gain | None]:
    rule = f"gain over {rival}"
    if rival == "champion" and trial.rival == "bicubic":
        why = "there is no champion yet: bicubic is the one to beat"
        return _not_judged(rule, limit, why), None
    try:
        gain = paired_gain([picture.against(rival) for picture in trial.pictures], rules.resampling)
    except TooLittleToJudge as error:
        outcome = Outcome(rule=rule, passed=False, value=None, limit=limit, why=str(error))
        return outcome, None
    passed = gain.lower_db >= limit
    why = (
        f"{gain.mean_db:+.3f} dB over {rival} on {gain.pictures} pictures; with "
        f"{gain.confidence:.0%} confidence at least {gain.lower_db:+.3f} dB, and {limit:+.3f} dB "
        f"{'was' if passed else 'is'} asked for"
    )
    return Outcome(rule=rule, passed=passed, value=gain.lower_db, limit=limit, why=why), gain


def _ssim(rules: Rules, trial: Trial) -> Outcome:
    ours = fmean(picture.challenger.ssim for picture in trial.pictures)
    theirs = fmean((picture.champion or picture.bicubic).ssim for picture in trial.pictures)
    loss = theirs - ours
    return Outcome(
        rule=f"SSIM against {trial.rival}",
        passed=loss <= rules.most_ssim_loss,
        value=loss,
        limit=rules.most_ssim_loss,
        why=f"mean SSIM {ours:.4f} against {theirs:.4f}; {rules.most_ssim_loss} may be lost",
    )


def _slice(rules: Rules, trial: Trial, part: Slice) -> Outcome:
    rule, limit = f"no loss on {part.name} pictures", -part.most_loss_db
    members = [picture for picture in trial.pictures if part.holds(picture.features)]
    if len(members) < part.least_pictures:
        why = f"{len(members)} {part.name} pictures, fewer than the {part.least_pictures} needed"
        return _not_judged(rule, limit, why)
    try:
        gain = paired_gain(
            [picture.against(trial.rival) for picture in members],
            _for_slice(rules.resampling, part),
        )
    except TooLittleToJudge as error:
        return _not_judged(rule, limit, str(error))
    why = (
        f"{gain.mean_db:+.3f} dB against {trial.rival} on {len(members)} {part.name} pictures, at "
        f"least {gain.lower_db:+.3f} dB; {limit:+.3f} dB is the limit"
    )
    return Outcome(
        rule=rule, passed=gain.lower_db >= limit, value=gain.lower_db, limit=limit, why=why
    )


def _for_slice(resampling: Resampling, part: Slice) -> Resampling:
    """The slice's own least number of pictures, and blocks in proportion."""
    share = part.least_pictures / resampling.least_pictures
    least = {
        "least_pictures": part.least_pictures,
        "least_blocks": round(resampling.least_blocks * share),
    }
    return resampling.model_copy(update=least)


def _floor(trial: Trial, floor: Floor) -> Outcome:
    asked = floor.protocol
    rule = f"floor on {asked.dataset} x{asked.scale} {asked.channel.upper()}"
    if not asked.matches(trial.protocol):
        return _not_judged(rule, floor.psnr, f"this run is on {trial.protocol}")
    psnr = fmean(picture.challenger.psnr for picture in trial.pictures)
    ssim = fmean(picture.challenger.ssim for picture in trial.pictures)
    return Outcome(
        rule=rule,
        passed=psnr >= floor.psnr and ssim >= floor.ssim,
        value=psnr,
        limit=floor.psnr,
        why=f"{psnr:.2f} dB / {ssim:.4f}; at least {floor.psnr} dB / {floor.ssim} is asked for",
    )


def _bound(what: str, limit: float, stated: float, measured: float) -> Outcome:
    value = max(stated, measured)
    return Outcome(
        rule=f"bound of {what}",
        passed=value <= limit,
        value=value,
        limit=limit,
        why=f"{what}: {stated:.3f} grey levels stated, {measured:.3f} measured here; at most "
        f"{limit} may be",
    )


def _not_judged(rule: str, limit: float, why: str) -> Outcome:
    return Outcome(rule=rule, passed=None, value=None, limit=limit, why=f"not judged: {why}")
