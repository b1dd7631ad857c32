"""Rules: the shipped files, validation, and each rule's outcome on a trial."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from release.bounds import MeasuredBounds
from release.cost import Cost, MeasuredCosts
from release.judge import Licences, judge
from release.rules import Floor, Perception, Slice, load_rules, rules_for
from release.trial import PictureMetrics, PictureTrial, Trial, TrialExample
from superres.analysis.degradation_features import FEATURES
from superres.common.errors import UsageError
from superres.model.bundle import Bounds, Licence, Training
from superres.quality import Protocol
from superres.quality.blocks import Grid

SHIPPED = ("psnr", "sample", "gan")
FIDELITY = SHIPPED[:2]
OF_TRIAL = ("dataset", "unmeasured", "baseline")
MODELS = ("challenger", "champion", "bicubic")
NOISY = {"name": "noisy", "feature": "noise", "at_least": 5.0, "min_pictures": 2,
         "max_loss_db": 0.1}  # fmt: skip


@pytest.fixture
def shipped(held_out):
    paths = {name: rules_for(held_out(source=name), trained()) for name in FIDELITY}
    paths["gan"] = rules_for(held_out(), trained("l1", "gan"))
    return {name: load_rules(path) for name, path in paths.items()}


def trained(*losses):
    return Training(
        datasets=(), degradation="bicubic", reference={}, steps=1, seconds=1.0, device="cpu",
        losses=losses,
    )  # fmt: skip


def picture(name, *, ours=4.0, champion=8.0, bicubic=16.0, ssim=0.9, lpips=(), **features):
    """A picture of six blocks with the same mean squared error everywhere.

    `lpips` is that of challenger, champion and bicubic.
    """
    grid = Grid.over(48, 32, 16)
    errors = {"challenger": ours, "champion": champion, "bicubic": bicubic}
    return PictureTrial(
        name=name,
        features={**dict.fromkeys(FEATURES, 0.0), **features},
        challenger=PictureMetrics(psnr=40.0, ssim=ssim),
        champion=PictureMetrics(psnr=37.0, ssim=0.9),
        bicubic=PictureMetrics(psnr=34.0, ssim=0.8),
        errors={model: grid.counts * error for model, error in errors.items()},
        counts=grid.counts,
        perception={"lpips": dict(zip(MODELS, lpips, strict=True))} if lpips else {},
    )


def trial_of(*pictures, dataset="mine", baseline="champion", **more):
    example = TrialExample(name="p", gain_db=0.0, panels=(np.zeros((8, 8, 3), np.uint8),) * 4)
    return Trial(
        protocol=Protocol(dataset=dataset, scale=4, channel="y", border=4),
        baseline=baseline,
        pictures=pictures,
        worst=example,
        best=example,
        **more,
    )


def costs(ours=(1.0, 100), champion=(1.0, 100)):
    """Seconds and megabytes of both."""

    def cost(seconds, megabytes):
        memory = None if megabytes is None else megabytes * 1_000_000
        return Cost(seconds=seconds, memory_bytes=memory)

    return MeasuredCosts(
        pixels=9216, rounds=3, challenger=cost(*ours), champion=champion and cost(*champion)
    )


def licence(commercial_use="no", weights="research"):
    return Licence(weights=weights, lineage=(), commercial_use=commercial_use)


def outcomes_of(rules, *pictures, seam=0.0, measured=0.0, precision=0.0, **more):
    """The outcomes by rule."""
    judgement = judge(
        rules,
        trial_of(*pictures, **{key: more[key] for key in OF_TRIAL if key in more}),
        Bounds(seam_levels=seam, precision_levels={"bf16": precision}),
        MeasuredBounds(seam_levels=measured, precision="bf16", precision_levels=measured),
        more.get("costs", costs()),
        Licences(
            challenger=more.get("licence", licence()), champion=more.get("champions", licence())
        ),
    )
    return {outcome.rule: outcome for outcome in judgement.outcomes}


def without_champion(found):
    errors = {model: found.errors[model] for model in ("challenger", "bicubic")}
    perception = {
        metric: {model: values[model] for model in ("challenger", "bicubic")}
        for metric, values in found.perception.items()
    }
    return replace(found, champion=None, errors=errors, perception=perception)


def table_of(outcomes):
    """Outcome, value and limit by rule."""
    return {
        rule: (outcome.passed, outcome.value and pytest.approx(outcome.value), outcome.limit)
        for rule, outcome in outcomes.items()
    }


DARK = Slice(name="dark", feature="brightness", at_most=0.2, min_pictures=2, max_loss_db=0.1)
FLOOR = Floor.model_validate(
    {
        "protocol": {
            "dataset": "mine", "scale": 4, "channel": "y", "border": 4,
            "resampler": "matlab-bicubic",
        },
        "psnr": 40.0, "ssim": 0.9,
    }
)  # fmt: skip
HALVED = 10 * np.log10(2)  # the gain in dB of half the squared error


def test_every_rule_states_its_outcome_value_and_limit(rules):
    rules = rules.model_copy(update={"slices": [DARK], "floors": [FLOOR]})
    dark = [picture(str(i), brightness=0.2) for i in range(2)]
    outcomes = outcomes_of(
        rules, *dark, picture("bright", brightness=0.3), seam=0.25, measured=0.5,
        costs=costs((3.0, 1500), (2.0, 1000)),
    )  # fmt: skip
    assert table_of(outcomes) == {
        "gain over champion": (True, HALVED, 0.1),
        "gain over bicubic": (True, 2 * HALVED, 0.5),
        "SSIM against champion": (True, 0.0, 0.001),
        "no loss on dark pictures": (True, HALVED, -0.1),
        "floor on mine x4 Y": (True, 40.0, 40.0),
        "bound of seams": (True, 0.5, 1.0),
        "bound of precision bf16": (True, 0.5, 2.0),
        "speed against champion": (True, 1.5, 1.5),
        "memory against champion": (True, 1.5, 1.5),
        "licence": (True, None, None),
    }
    gain, memory = outcomes["gain over champion"].why, outcomes["memory against champion"].why
    assert "+3.010 dB over champion on 3 pictures; with 95% confidence at least +3.010" in gain
    assert "was required" in gain
    assert memory.startswith("1500 MB against 1000 MB")
    assert "2 dark pictures, at least +3.010 dB" in outcomes["no loss on dark pictures"].why
    assert "0.250 grey levels stated, 0.500 measured" in outcomes["bound of seams"].why


def test_without_a_champion_its_rules_are_not_judged_and_bicubic_is_the_baseline(rules):
    rules = rules.model_copy(update={"slices": [DARK]})
    pictures = [without_champion(picture(str(i), brightness=0.1, ssim=0.79)) for i in range(3)]
    outcomes = outcomes_of(
        rules, *pictures, baseline="bicubic", costs=costs(champion=None), champions=None,
        licence=licence("unclear"),
    )  # fmt: skip
    assert table_of(outcomes) == {
        "gain over champion": (None, None, 0.1),
        "gain over bicubic": (True, 2 * HALVED, 0.5),
        "SSIM against bicubic": (False, 0.01, 0.001),
        "no loss on dark pictures": (True, 2 * HALVED, -0.1),
        "bound of seams": (True, 0.0, 1.0),
        "bound of precision bf16": (True, 0.0, 2.0),
        "speed against champion": (None, None, 1.5),
        "memory against champion": (None, None, 1.5),
        "licence": (True, None, None),
    }
    for rule in ("gain over champion", "speed against champion", "memory against champion"):
        assert outcomes[rule].why.startswith("not judged: there is no champion yet")


def test_a_gain_that_misses_the_limit_says_what_is_required(rules):
    outcome = outcomes_of(rules, *[picture(str(i), ours=8.0) for i in range(3)])
    assert table_of(outcome)["gain over champion"] == (False, 0.0, 0.1)
    assert "+0.100 dB is required" in outcome["gain over champion"].why


def test_a_floor_on_ssim_is_a_floor_too(rules):
    rules = rules.model_copy(update={"floors": [FLOOR]})
    outcome = outcomes_of(rules, *[picture(str(i), ssim=0.89) for i in range(3)])
    assert outcome["floor on mine x4 Y"].passed is False


def test_a_precision_that_the_bundle_does_not_state_is_judged_as_measured(rules):
    judgement = judge(
        rules,
        trial_of(*[picture(str(i)) for i in range(3)]),
        Bounds(seam_levels=0.0, precision_levels={"bf16": 9.0}),
        MeasuredBounds(seam_levels=0.0, precision="int8", precision_levels=0.5),
        costs(),
        Licences(challenger=licence(), champion=None),
    )
    outcome = {outcome.rule: outcome for outcome in judgement.outcomes}["bound of precision int8"]
    assert (outcome.passed, outcome.value) == (True, 0.5)
    assert judgement.over_champion.mean_db == pytest.approx(HALVED)
    assert judgement.over_bicubic.mean_db == pytest.approx(2 * HALVED)


def test_memory_is_compared_as_reported(rules):
    pictures = [picture(str(i)) for i in range(3)]
    for ours, champion in (((1.0, None), (1.0, 100)), ((1.0, 100), (1.0, None))):
        outcome = outcomes_of(rules, *pictures, costs=costs(ours, champion))
        memory = outcome["memory against champion"]
        assert (memory.passed, memory.value, memory.limit) == (None, None, 1.5)
        assert "does not report" in memory.why
    free = outcomes_of(rules, *pictures, costs=costs((1.0, 64), (1.0, 0)))
    assert free["memory against champion"].passed is True
    assert free["memory against champion"].value == 64_000_000
    over = outcomes_of(rules, *pictures, costs=costs((1.0, 65), (1.0, 0)))
    assert over["memory against champion"].passed is False


def test_a_slice_needs_blocks_in_proportion_to_its_pictures(rules):
    resampling = rules.resampling.model_copy(update={"min_blocks": 14})
    slices = [DARK.model_copy(update={"min_pictures": 4})]
    rules = rules.model_copy(update={"slices": slices, "resampling": resampling})
    pictures = [picture(str(i), brightness=0.1) for i in range(5)]
    few = outcomes_of(rules, *pictures[:4])["no loss on dark pictures"]
    assert (few.passed, few.value, few.limit) == (None, None, -0.1)
    assert "4 pictures with 24 blocks are too few" in few.why
    assert "require 4 pictures and 28 blocks" in few.why
    assert outcomes_of(rules, *pictures)["no loss on dark pictures"].passed is True
    small = rules.resampling.model_copy(update={"min_pictures": 8, "min_blocks": 24})
    rules = rules.model_copy(update={"slices": [DARK], "resampling": small})
    assert outcomes_of(rules, *pictures[:2])["no loss on dark pictures"].passed is True


@pytest.mark.parametrize(("confidence", "lower"), [(0.95, 0.0), (0.8, 0.25)])
def test_a_perceptual_gain_has_the_quantiles_of_resampled_means(gan_rules, confidence, lower):
    """Of gains 0, 0.75 and 0.75 three draws have the mean 0 with 4 %, 0.25 with 22 %."""
    update = {"resamples": 2000, "confidence": confidence, "min_pictures": 3}
    resampling = gan_rules.resampling.model_copy(update=update)
    rules = gan_rules.model_copy(update={"resampling": resampling})
    pictures = [picture(str(i), lpips=(0.0, gain, 1.0)) for i, gain in enumerate((0, 0.75, 0.75))]
    outcome = outcomes_of(rules, *pictures)["lpips gain over champion"]
    assert outcome.value == pytest.approx(lower)


def test_a_perceptual_gain_is_the_same_in_every_run(gan_rules):
    values = np.random.default_rng(0).random((9, 3)).tolist()
    pictures = [picture(str(i), lpips=lpips) for i, lpips in enumerate(values)]
    first, second = (outcomes_of(gan_rules, *pictures) for _ in range(2))
    assert first == second


def test_rules_of_gan_models_state_value_and_limit(gan_rules):
    part = Slice.model_validate({**NOISY, "max_loss_db": None, "max_loss": {"lpips": 0.005}})
    rules = gan_rules.model_copy(update={"slices": [part]})
    pictures = [picture(str(i), lpips=(0.125, 0.25, 0.5), noise=5.0) for i in range(3)]
    outcomes = outcomes_of(rules, *pictures)
    table = table_of(outcomes)
    assert table["gain over champion"] == (None, None, None)
    assert table["SSIM against champion"] == (None, None, None)
    assert table["lpips gain over champion"] == (True, 0.125, 0.01)
    assert table["lpips gain over bicubic"] == (True, 0.375, 0.0)
    assert table["PSNR floor of bicubic"] == (True, 6.0, 0.0)
    assert table["no lpips loss on noisy pictures"] == (True, 0.125, -0.005)
    assert "+3.010 dB over champion" in outcomes["gain over champion"].why
    assert "not for models trained with a discriminator" in outcomes["gain over champion"].why
    assert "mean SSIM 0.9000 against 0.9000; the rule is not" in (
        outcomes["SSIM against champion"].why
    )
    one = outcomes_of(rules, pictures[0])
    few = table_of(one)
    assert "1 noisy pictures, fewer than the 2" in one["no lpips loss on noisy pictures"].why
    assert few["gain over champion"] == (None, None, None)
    assert few["lpips gain over bicubic"] == (False, None, 0.0)
    assert few["no lpips loss on noisy pictures"] == (None, None, -0.005)
    unmeasured = table_of(outcomes_of(rules, *pictures, unmeasured={"lpips": "no weights"}))
    assert unmeasured["lpips gain over champion"] == (False, None, 0.01)
    assert unmeasured["no lpips loss on noisy pictures"] == (None, None, -0.005)
    alone = outcomes_of(rules, *map(without_champion, pictures), baseline="bicubic")
    assert table_of(alone)["lpips gain over champion"] == (None, None, 0.01)
    assert "no champion yet" in alone["lpips gain over champion"].why
    assert table_of(alone)["no lpips loss on noisy pictures"] == (True, 0.375, -0.005)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_rules_are_valid_and_named_after_their_file(shipped, name):
    assert shipped[name].name == name
    assert shipped[name].slices


def test_rules_are_chosen_by_the_source_of_the_dataset(held_out, tmp_path):
    plain = trained("l1")
    assert rules_for(held_out(source="sample"), plain).stem == "sample"
    assert rules_for(held_out(source="../rules/sample"), plain).stem == "psnr"
    assert rules_for(held_out(source="sample+photos"), plain).stem == "psnr"
    assert rules_for(held_out(source="gan"), plain).stem == "psnr"
    assert rules_for(tmp_path, plain).stem == "psnr"


def test_a_gan_model_has_its_own_rules(held_out, tmp_path):
    for data in (held_out(source="sample"), tmp_path):
        assert rules_for(data, trained("l1", "gan")).stem == "gan"


def test_the_sample_rules_differ_only_where_few_pictures_need_it(shipped):
    default, sample = (shipped[name].model_dump(mode="json") for name in FIDELITY)
    differing = {key for key in default if default[key] != sample[key]}
    expected = {"name", "resampling", "floors", "slices", "min_gain_over_bicubic_db", "cost"}
    assert differing == expected
    assert sample["min_gain_over_bicubic_db"] >= 0
    assert sample["min_gain_over_champion_db"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "surprise"),
        ({"max_ssim_loss": None}, "max_ssim_loss"),
        ({"max_seam_levels": None}, "max_seam_levels"),
        ({"kind": "gan"}, "perception"),
        ({"commercial_use": "maybe"}, "commercial_use"),
        ({"slices": [{**NOISY, "max_loss_db": None}]}, "either max_loss_db or max_loss"),
        ({"slices": [{**NOISY, "max_loss_db": None, "max_loss": {"lpips": 0.1}}]}, "noisy"),
        ({"channel": "z"}, "channel"),
        ({"max_ssim_loss": "0.1"}, "max_ssim_loss"),
        ({"slices": [{"name": "x", "feature": "noise", "min_pictures": 2}]}, "slices.0"),
        (
            {
                "slices": [
                    {
                        "name": "x",
                        "feature": "taste",
                        "at_most": 1.0,
                        "min_pictures": 2,
                        "max_loss_db": 0.1,
                    }
                ]
            },
            "no feature 'taste'",
        ),
        (
            {"slices": [{"name": "x", "feature": "noise", "min_pictures": 2, "max_loss_db": 0.1}]},
            "neither at_least nor at_most",
        ),
    ],
)
def test_an_invalid_missing_or_unknown_key_is_named(tmp_path, rules, change, message):
    content = {**rules.model_dump(mode="json"), **change}
    if change in ({"max_ssim_loss": None}, {"max_seam_levels": None}):
        content.pop(*change)
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=message) as caught:
        load_rules(path)
    assert str(path) in str(caught.value)


def test_a_misspelt_key_or_metric_gets_the_nearest(tmp_path, rules, shipped):
    path = tmp_path / "rules.yaml"
    content = rules.model_dump(mode="json")
    content["slises"] = content.pop("slices")
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="slises is not a key of gate rules; did you mean slices"):
        load_rules(path)
    content = shipped["gan"].model_dump(mode="json")
    content["perception"]["metrics"][1]["metric"] = "dist"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=r"rules\.yaml: no metric 'dist'; did you mean dists"):
        load_rules(path)


@pytest.mark.parametrize("content", ["a: [", "- 1", ""])
def test_an_invalid_rules_file_is_refused(tmp_path, content):
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"rules\.yaml"):
        load_rules(path)


def test_a_missing_rules_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load_rules(tmp_path / "none.yaml")


@given(gain_db=st.floats(-3, 3), limit=st.floats(-1, 1))
def test_a_gain_passes_if_and_only_if_it_reaches_the_limit(shared_rules, gain_db, limit):
    rules = shared_rules.model_copy(update={"min_gain_over_champion_db": limit})
    pictures = [picture(str(i), ours=8.0 * 10 ** (-gain_db / 10)) for i in range(3)]
    outcome = outcomes_of(rules, *pictures)["gain over champion"]
    assert outcome.value == pytest.approx(gain_db, abs=1e-6)
    if abs(gain_db - limit) > 1e-6:
        assert outcome.passed == (gain_db >= limit)


def test_a_loss_on_one_slice_is_refused_though_the_mean_gains(rules):
    dark = Slice(name="dark", feature="brightness", at_most=0.2, min_pictures=2, max_loss_db=0.1)
    rules = rules.model_copy(update={"slices": [dark]})
    bright = [picture(f"b{i}", ours=1.0, brightness=0.5) for i in range(6)]
    worse = [picture(f"d{i}", ours=9.0, brightness=0.1) for i in range(2)]
    outcomes = outcomes_of(rules, *bright, *worse)
    slice_rule = outcomes["no loss on dark pictures"]
    assert outcomes["gain over champion"].passed is True
    assert slice_rule.passed is False
    assert slice_rule.value == pytest.approx(10 * np.log10(8 / 9))
    assert "2 dark pictures" in slice_rule.why


def test_a_slice_with_too_few_pictures_is_not_judged_and_says_how_many(rules):
    noisy = Slice(name="noisy", feature="noise", at_least=5.0, min_pictures=3, max_loss_db=0.1)
    rules = rules.model_copy(update={"slices": [noisy]})
    pictures = [picture(str(i), ours=99.0 if i < 2 else 1.0, noise=6.0 * (i < 2)) for i in range(9)]
    outcome = outcomes_of(rules, *pictures)["no loss on noisy pictures"]
    assert (outcome.passed, outcome.value, outcome.limit) == (None, None, -0.1)
    assert "2 noisy pictures, fewer than the 3" in outcome.why


def test_a_slice_of_tiny_pictures_is_not_judged(rules):
    resampling = rules.resampling.model_copy(update={"min_blocks": 60})
    dark = Slice(name="dark", feature="brightness", at_most=0.2, min_pictures=2, max_loss_db=0.1)
    rules = rules.model_copy(update={"slices": [dark], "resampling": resampling})
    pictures = [picture(str(i), brightness=0.1 if i < 2 else 0.5) for i in range(12)]
    outcome = outcomes_of(rules, *pictures)["no loss on dark pictures"]
    assert outcome.passed is None
    assert "12 blocks are too few" in outcome.why


@pytest.mark.parametrize(("psnr", "passed"), [(39.0, True), (41.0, False)])
def test_a_floor_applies_to_its_own_protocol_only(rules, psnr, passed):
    protocol = {
        "dataset": "set5",
        "scale": 4,
        "channel": "y",
        "border": 4,
        "resampler": "matlab-bicubic",
    }
    floor = Floor.model_validate({"protocol": protocol, "psnr": psnr, "ssim": 0.5})
    rules = rules.model_copy(update={"floors": [floor]})
    pictures = [picture(str(i)) for i in range(3)]
    rule = "floor on set5 x4 Y"
    assert outcomes_of(rules, *pictures, dataset="set5")[rule].passed is passed
    elsewhere = outcomes_of(rules, *pictures, dataset="mine")[rule]
    assert (elsewhere.passed, elsewhere.limit) == (None, psnr)
    assert "mine, x4, Y" in elsewhere.why


def test_a_loss_of_ssim_is_refused(rules):
    outcome = outcomes_of(rules, *[picture(str(i), ssim=0.88) for i in range(3)])
    assert outcome["SSIM against champion"].passed is False
    assert outcome["SSIM against champion"].value == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("bounds", "refused"),
    [
        ({}, set()),
        ({"seam": 1.5}, {"bound of seams"}),
        ({"precision": 2.5}, {"bound of precision bf16"}),
        ({"measured": 1.5}, {"bound of seams"}),
        ({"measured": 2.5}, {"bound of seams", "bound of precision bf16"}),
    ],
)
def test_stated_and_measured_bounds_are_both_checked(rules, bounds, refused):
    outcomes = outcomes_of(rules, *[picture(str(i)) for i in range(3)], **bounds)
    assert {rule for rule, outcome in outcomes.items() if outcome.passed is False} == refused


def test_too_few_pictures_are_refused_with_the_required_numbers(rules):
    outcome = outcomes_of(rules, picture("alone"))["gain over champion"]
    assert (outcome.passed, outcome.limit) == (False, 0.1)
    assert "2 pictures and 12 blocks" in outcome.why


@pytest.mark.parametrize(
    ("ours", "champion", "refused"),
    [
        ((1.4, 100), (1.0, 100), set()),
        ((1.6, 100), (1.0, 100), {"speed against champion"}),
        ((1.0, 160), (1.0, 100), set()),  # 60 MB more always pass
        ((1.0, 170), (1.0, 100), {"memory against champion"}),
        ((1.0, 1400), (1.0, 1000), set()),
        ((1.0, None), (1.0, 100), set()),
        ((9.0, 9000), None, set()),
    ],
)
def test_inference_may_not_cost_much_more_than_the_champions(rules, ours, champion, refused):
    outcomes = outcomes_of(rules, *[picture(str(i)) for i in range(3)], costs=costs(ours, champion))
    assert {rule for rule, outcome in outcomes.items() if outcome.passed is False} == refused
    if champion is None:
        assert outcomes["speed against champion"].passed is None
        assert "no champion" in outcomes["memory against champion"].why


@pytest.mark.parametrize(
    ("required", "ours", "champion", "passed"),
    [
        ("as the champion", "no", "no", True),
        ("as the champion", "no", "yes", False),
        ("as the champion", "unclear", "yes", False),
        ("as the champion", "yes", "unclear", True),
        ("yes", "unclear", "no", False),
        ("yes", "yes", "no", True),
        ("any", "no", "yes", True),
    ],
)
def test_a_licence_may_not_be_stricter_than_required(rules, required, ours, champion, passed):
    outcome = outcomes_of(
        rules.model_copy(update={"commercial_use": required}),
        *[picture(str(i)) for i in range(3)],
        licence=licence(ours),
        champions=licence(champion),
    )["licence"]
    assert outcome.passed is passed
    assert f"commercial use: {ours}" in outcome.why


def test_weights_without_a_licence_are_refused(rules):
    outcomes = outcomes_of(rules, *[picture(str(i)) for i in range(3)], licence=licence("yes", " "))
    assert outcomes["licence"].passed is False


@pytest.fixture
def gan_rules(rules):
    """Rules for GAN models that three pictures can pass."""
    perception = Perception.model_validate(
        {
            "metrics": [
                {"metric": "lpips", "min_gain_over_champion": 0.01, "min_gain_over_bicubic": 0}
            ],
            "min_psnr_over_bicubic_db": 0.0,
        }
    )
    nulls = dict.fromkeys(
        ("min_gain_over_champion_db", "min_gain_over_bicubic_db", "max_ssim_loss")
    )
    return rules.model_copy(update={"kind": "gan", "perception": perception, **nulls})


def test_a_gan_model_is_judged_by_perceptual_metrics(gan_rules):
    # Worse than the champion by PSNR and SSIM, better by LPIPS.
    pictures = [picture(str(i), ours=9.0, ssim=0.5, lpips=(0.1, 0.2, 0.4)) for i in range(3)]
    outcomes = outcomes_of(gan_rules, *pictures)
    assert not [rule for rule, outcome in outcomes.items() if outcome.passed is False]
    assert outcomes["gain over champion"].passed is None
    assert outcomes["SSIM against champion"].passed is None
    assert outcomes["lpips gain over champion"].value == pytest.approx(0.1)
    assert outcomes["lpips gain over bicubic"].value == pytest.approx(0.3)


def test_perceptual_gains_are_those_of_the_intervals_lower_end(gan_rules):
    lpips = [(0.1, 0.2, 0.4), (0.2, 0.19, 0.4), (0.1, 0.2, 0.4)]
    pictures = [picture(str(i), lpips=values) for i, values in enumerate(lpips)]
    outcome = outcomes_of(gan_rules, *pictures)["lpips gain over champion"]
    assert outcome.passed is False
    assert outcome.value == pytest.approx(-0.01)
    assert "+0.0633" in outcome.why


def test_a_gan_model_below_bicubics_psnr_is_refused(gan_rules):
    def with_psnr(index):
        return replace(
            picture(str(index), lpips=(0.1, 0.2, 0.4)),
            challenger=PictureMetrics(psnr=33.9, ssim=0.9),
        )

    outcome = outcomes_of(gan_rules, *map(with_psnr, range(3)))["PSNR floor of bicubic"]
    assert outcome.passed is False
    assert outcome.value == pytest.approx(-0.1)


def test_unmeasured_metrics_do_not_pass(gan_rules):
    pictures = [picture(str(i)) for i in range(3)]
    outcomes = outcomes_of(gan_rules, *pictures, unmeasured={"lpips": "no weights: fetch them"})
    for baseline in ("champion", "bicubic"):
        outcome = outcomes[f"lpips gain over {baseline}"]
        assert outcome.passed is False
        assert "could not be measured, so no gain is shown: no weights: fetch them" in outcome.why
    few = outcomes_of(gan_rules, picture("alone", lpips=(0.1, 0.2, 0.4)))[
        "lpips gain over champion"
    ]
    assert few.passed is False
    assert "too few" in few.why


def test_a_perceptual_loss_on_one_slice_is_refused(gan_rules):
    part = Slice.model_validate({**NOISY, "max_loss_db": None, "max_loss": {"lpips": 0.005}})
    rules = gan_rules.model_copy(update={"slices": [part]})
    clean = [picture(f"c{i}", lpips=(0.1, 0.3, 0.4)) for i in range(6)]
    noisy = [picture(f"n{i}", lpips=(0.22, 0.2, 0.4), noise=9.0) for i in range(2)]
    outcome = outcomes_of(rules, *clean, *noisy)["no lpips loss on noisy pictures"]
    assert outcome.passed is False
    assert outcome.value == pytest.approx(-0.02)
    assert outcomes_of(rules, *clean)["no lpips loss on noisy pictures"].passed is None
    unmeasured = outcomes_of(rules, *noisy, unmeasured={"lpips": "no weights"})
    assert "no weights" in unmeasured["no lpips loss on noisy pictures"].why
