"""The gate on a real registry: decisions, reasons, evidence and reports."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from release.cost import Meter
from release.evidence import BrokenEvidence, evidence_path, read_evidence
from release.rules import load_rules, rules_for
from release.versions import NotRegistered, RegistryUnavailable
from superres.common.errors import SharplineError, UsageError
from superres.image.codecs import read
from superres.model.bundle import BrokenBundle, Training, write_bundle
from superres.quality.metric import Metric


def outcome(evidence, rule):
    return next(found for found in evidence.outcomes if found.rule == rule)


def test_a_better_challenger_passes_with_its_true_gain(run_gate, two_versions, name):
    decision = run_gate(name)
    evidence = read_evidence(decision.evidence)
    # An offset of 4 levels instead of 8 halves the error's root everywhere: 20 log10 2 dB.
    assert decision.passed
    assert decision.gain_psnr == pytest.approx(20 * np.log10(2), abs=0.01)
    gain = evidence.gain_over_champion
    assert (gain.lower_db, gain.upper_db) == pytest.approx((gain.mean_db, gain.mean_db), abs=0.01)
    assert (gain.pictures, gain.blocks) == (3, 18)
    assert evidence.challenger.bundle_id == two_versions[1].bundle_id
    assert evidence.champion.bundle_id == two_versions[0].bundle_id


def test_a_worse_challenger_is_refused_with_the_measured_loss(
    run_gate, two_versions, registry, tiny_bundle, name
):
    worse = registry.register(tiny_bundle(name=name, error_levels=12))
    decision = run_gate(name, worse.number)
    assert not decision.passed
    assert decision.gain_psnr == pytest.approx(20 * np.log10(8 / 12), abs=0.01)
    assert any("-3.5" in reason and "champion" in reason for reason in decision.reasons)
    assert read_evidence(decision.evidence).reasons == decision.reasons


def test_without_a_champion_bicubic_is_the_baseline(run_gate, registry, tiny_bundle, name):
    version = registry.register(tiny_bundle(name=name, error_levels=2))
    decision = run_gate(name, version.number)
    evidence = read_evidence(decision.evidence)
    assert decision.passed
    assert evidence.champion is evidence.gain_over_champion is None
    assert decision.gain_psnr == pytest.approx(evidence.gain_over_bicubic.mean_db)
    assert outcome(evidence, "gain over champion").passed is None
    assert all(picture.champion is None for picture in evidence.pictures)


def test_without_a_champion_a_model_worse_than_bicubic_is_refused(
    run_gate, registry, tiny_bundle, name, held_out
):
    version = registry.register(tiny_bundle(name=name, error_levels=6))
    # Nearly flat pictures: bicubic's error is small compared with an offset of six levels.
    decision = run_gate(name, version.number, data=held_out(low=100, high=103))
    assert not decision.passed
    assert any("over bicubic" in reason for reason in decision.reasons)


def test_too_few_pictures_are_refused_rather_than_judged(run_gate, two_versions, name, held_out):
    decision = run_gate(name, data=held_out(pictures=1))
    assert not decision.passed
    assert decision.gain_psnr is None
    assert "1 pictures with 6 blocks are too few" in decision.reasons[0]


def test_the_champion_itself_is_not_judged_again(run_gate, two_versions, name):
    decision = run_gate(name, two_versions[0].number)
    assert (decision.passed, decision.evidence) == (False, None)
    assert "champion already" in decision.reasons[0]


def test_a_model_without_a_challenger_is_an_error(run_gate, registry, tiny_bundle, name):
    registry.register(tiny_bundle(name=name))
    with pytest.raises(NotRegistered, match="no challenger"):
        run_gate(name)


def test_models_of_different_scales_are_not_compared(
    run_gate, two_versions, registry, tiny_bundle, name
):
    other = registry.register(tiny_bundle(name=name, scale=4))
    with pytest.raises(SharplineError, match="has scale 4, the champion scale 2"):
        run_gate(name, other.number)


def test_a_damaged_challenger_is_not_judged(run_gate, two_versions, name, flip_byte, tmp_path):
    flip_byte(two_versions[1], "weights.safetensors")
    with pytest.raises(BrokenBundle, match=r"weights\.safetensors"):
        run_gate(name)
    assert not (tmp_path / "evidence").exists()


def test_the_evidence_records_protocol_features_and_runtime(run_gate, two_versions, name):
    evidence = read_evidence(run_gate(name).evidence)
    assert evidence.protocol["dataset"] == "0123456789abcdef"
    assert evidence.protocol["resampler"] == "box"
    assert [picture.name for picture in evidence.pictures] == ["p0", "p1", "p2"]
    assert all(set(picture.features) >= {"noise", "blur"} for picture in evidence.pictures)
    assert evidence.runtime.precision == "fp32"
    assert {"numpy", "torch"} <= set(evidence.runtime.software)
    assert evidence.bounds.seam_levels < 0.01


def test_the_report_shows_the_worst_and_the_best_picture(run_gate, two_versions, name):
    folder = run_gate(name).evidence.parent
    worst, report = read(folder / "worst.png"), (folder / "report.md").read_text()
    # Four panels of the whole 48 x 64 picture, twice enlarged, with three gaps of six pixels.
    assert (worst.height, worst.width) == (96, 4 * 128 + 3 * 6)
    assert (folder / "best.png").is_file()
    assert f"# {name} version 2: passed" in report
    assert "bicubic, champion, challenger, truth" in report


def test_the_evidence_is_logged_to_the_run_of_the_bundle(run_gate, two_versions, name, client):
    decision = run_gate(name)
    version = two_versions[1]
    logged = client.list_artifacts(version.run_id, f"evidence/{decision.evidence.parent.name}")
    assert {item.path.rsplit("/", 1)[-1] for item in logged} == {
        "evidence.json",
        "report.md",
        "worst.png",
        "best.png",
    }


def test_a_failed_upload_of_the_evidence_does_not_lose_the_decision(
    run_gate, two_versions, name, registry, monkeypatch, capsys
):
    def full(version, folder):
        raise RegistryUnavailable("the disk of the registry is full")

    monkeypatch.setattr(registry, "log_evidence", full)
    assert run_gate(name).passed
    assert "disk of the registry is full" in capsys.readouterr().err


def test_evidence_that_contradicts_itself_is_refused(
    run_gate, two_versions, registry, tiny_bundle, name
):
    worse = registry.register(tiny_bundle(name=name, error_levels=12))
    path = run_gate(name, worse.number).evidence
    path.write_text(json.dumps(json.loads(path.read_text()) | {"passed": True}))
    with pytest.raises(BrokenEvidence, match="contradicts the outcomes"):
        read_evidence(path)


@pytest.mark.parametrize("content", ["", "[]", '{"passed": true}'])
def test_other_files_are_refused_as_evidence(tmp_path, content):
    (tmp_path / "evidence.json").write_text(content)
    with pytest.raises(BrokenEvidence, match=r"evidence\.json"):
        read_evidence(evidence_path(tmp_path))


def test_missing_evidence_is_an_error(tmp_path):
    with pytest.raises(BrokenEvidence, match="sharpline gate"):
        evidence_path(tmp_path)


@pytest.fixture
def trained_against_a_discriminator(tiny_bundle, name, tmp_path):
    """Factory of bundles whose losses include the adversarial loss."""

    def make(error_levels):
        plain = tiny_bundle(name=name, error_levels=error_levels)
        training = plain.info.training.model_copy(update={"losses": ("l1", "gan")})
        return write_bundle(
            tmp_path / f"gan{error_levels}" / name,
            plain.info.model_copy(update={"training": training}),
            plain.weights(),
            *plain.golden(),
            "# A test's model\n",
        )

    return make


def fake_metrics(names, weights):
    """Fake metrics that equal the mean error, in place of metrics that need weights."""

    def compute(test_hwc, truth_hwc, protocol):
        return float(np.abs(test_hwc.astype(float) - truth_hwc).mean() / 255)

    return tuple(
        Metric(name=name, title=name, better="lower", variant="fake", compute=compute)
        for name in names
    ), {}


def test_a_gan_model_cannot_pass_without_perceptual_metrics(
    run_gate, registry, trained_against_a_discriminator, name, monkeypatch
):
    monkeypatch.delenv("SHARPLINE_METRIC_WEIGHTS", raising=False)
    version = registry.register(trained_against_a_discriminator(2))
    decision = run_gate(name, version.number, rules=None)
    evidence = read_evidence(decision.evidence)
    assert not decision.passed
    assert evidence.rules.name == "gan"
    for metric in ("lpips", "dists"):
        gain = outcome(evidence, f"{metric} gain over bicubic")
        assert gain.passed is False
        assert "SHARPLINE_METRIC_WEIGHTS" in gain.why
        assert gain.why in decision.reasons


def test_a_gan_model_passes_with_perceptual_metrics(
    run_gate, registry, trained_against_a_discriminator, name, rules
):
    champion, challenger = (
        registry.register(trained_against_a_discriminator(levels)) for levels in (8, 2)
    )
    registry.move_alias(name, "champion", champion, expected=None)
    gan = load_rules(rules_for(Path("anywhere"), challenger_training()))
    gan = gan.model_copy(update={"resampling": rules.resampling, "slices": []})
    decision = run_gate(name, challenger.number, rules=gan, metric_loader=fake_metrics)
    evidence = read_evidence(decision.evidence)
    assert decision.passed, decision.reasons
    gained = outcome(evidence, "lpips gain over champion")
    assert gained.value == pytest.approx(6 / 255, abs=1e-3)
    assert evidence.pictures[0].perception["dists"]["challenger"] == pytest.approx(2 / 255)
    assert "| p0 | lpips |" in (decision.evidence.parent / "report.md").read_text()


def test_a_metric_whose_higher_values_are_better_is_not_judged_as_a_distance(
    run_gate, registry, trained_against_a_discriminator, name, rules
):
    def similarities(names, weights):
        metrics, refused = fake_metrics(names, weights)
        return tuple(replace(metric, better="higher") for metric in metrics), refused

    challenger = registry.register(trained_against_a_discriminator(2))
    gan = load_rules(rules_for(Path("anywhere"), challenger_training()))
    gan = gan.model_copy(update={"resampling": rules.resampling, "slices": []})
    decision = run_gate(name, challenger.number, rules=gan, metric_loader=similarities)
    assert not decision.passed
    assert "higher values are better" in " ".join(decision.reasons)


def challenger_training():
    return Training(
        datasets=(), degradation="", reference={}, steps=0, seconds=0, device="", losses=("gan",)
    )


def test_rules_for_another_kind_of_model_are_refused(
    run_gate, registry, trained_against_a_discriminator, name
):
    version = registry.register(trained_against_a_discriminator(2))
    with pytest.raises(UsageError, match="with a discriminator and needs rules of kind gan"):
        run_gate(name, version.number)


def test_a_challenger_that_takes_twice_as_long_is_refused(run_gate, two_versions, name):
    # The champion runs first in each round: it takes one second, the challenger two.
    now = itertools.accumulate(itertools.cycle([0, 1, 0, 2]))
    decision = run_gate(name, meter=Meter(lambda: next(now), lambda run: run() and 0))
    evidence = read_evidence(decision.evidence)
    assert not decision.passed
    assert outcome(evidence, "speed against champion").value == 2
    assert evidence.costs.champion.seconds == 1
    assert "2.000 s against 1.000 s" in decision.reasons[0]
