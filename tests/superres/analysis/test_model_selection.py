"""`auto` selects the model that fits the input and states the reason."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from superres.analysis.degradation_features import examine
from superres.analysis.model_selection import (
    DEGRADATION_RULES,
    Candidate,
    NoModelFits,
    SelectionRequest,
    rule_tables,
    select_model,
)
from superres.degrade import DEGRADATIONS
from superres.degrade.jpeg import compress
from superres.quality import Protocol

CLEAN = {"jpeg_quality": 100.0, "noise_floor": 1.0, "blur": 0.25, "megapixels": 0.1}
PROTOCOL = Protocol(dataset="held out", scale=4, channel="y", border=4)


def model(name: str, degradation: str = "bicubic", **more) -> Candidate:
    fields = {"scale": 4, "task": "super-resolution", **more}
    return Candidate(name=name, degradation=degradation, **fields)


BICUBIC = model("clean_x4")
JPEG = model("jpeg_x4", "{bicubic: 1.0, bicubic_jpeg: 1.0}")
REAL = model("real_x4", "{bicubic: 0.2, real_esrgan: 0.8}")
ALL = (BICUBIC, JPEG, REAL)


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        ({}, "clean_x4"),
        ({"jpeg_quality": 40.0}, "jpeg_x4"),
        ({"noise_floor": 12.0}, "real_x4"),
        ({"jpeg_quality": 40.0, "noise_floor": 12.0}, "real_x4"),
        ({"blur": 0.6}, "real_x4"),
    ],
)
def test_the_model_trained_for_the_detected_damage_is_selected(shown: dict, name: str) -> None:
    for candidates in (ALL, ALL[::-1]):
        choice = select_model({**CLEAN, **shown}, SelectionRequest(), candidates)
        assert choice.model == name
        assert name in choice.reason
        assert all(feature in choice.reason for feature in shown)


def test_the_reason_states_damage_that_no_model_is_trained_for() -> None:
    choice = select_model({**CLEAN, "noise_floor": 12.0}, SelectionRequest(), [BICUBIC, JPEG])
    assert choice.model == "clean_x4"
    assert "which was not trained for noisy input" in choice.reason


def test_of_equal_candidates_the_best_psnr_under_one_protocol_is_selected() -> None:
    worse = model("first_x4", psnr={PROTOCOL: 29.0})
    better = model("second_x4", psnr={PROTOCOL: 30.0})
    assert select_model(CLEAN, SelectionRequest(), [worse, better]).model == "second_x4"
    # PSNR of different protocols is not compared: the first named is selected.
    elsewhere = model("third_x4", psnr={replace(PROTOCOL, dataset="other"): 31.0})
    assert select_model(CLEAN, SelectionRequest(), [worse, elsewhere]).model == "first_x4"
    assert select_model(CLEAN, SelectionRequest(), [elsewhere, worse, better]).model == "second_x4"


def test_the_deadline_excludes_slow_models_or_selects_the_fastest() -> None:
    slow = model("slow_x4", psnr={PROTOCOL: 31.0}, seconds_per_megapixel=100.0)
    fast = model("fast_x4", psnr={PROTOCOL: 30.0}, seconds_per_megapixel=10.0)
    measured = {**CLEAN, "megapixels": 1.0}

    def selected(deadline_seconds: float | None) -> tuple[str, str]:
        choice = select_model(
            measured, SelectionRequest(deadline_seconds=deadline_seconds), [slow, fast]
        )
        return choice.model, choice.reason

    assert selected(None)[0] == selected(100.0)[0] == "slow_x4"
    name, reason = selected(20.0)
    assert name == "fast_x4"
    assert "slow_x4 would take longer than 20 s" in reason
    name, reason = selected(1.0)
    assert name == "fast_x4"
    assert "fastest" in reason


def test_an_unmeasured_model_passes_the_deadline() -> None:
    new = model("new_x4", psnr={PROTOCOL: 31.0})
    old = model("old_x4", psnr={PROTOCOL: 30.0}, seconds_per_megapixel=1.0)
    assert select_model(CLEAN, SelectionRequest(deadline_seconds=0.5), [new, old]).model == "new_x4"


@pytest.mark.parametrize(
    ("megapixels", "scale", "name"),
    [(0.1, None, "four"), (12.0, None, "two"), (12.0, 4, "four"), (0.1, 2, "two"), (0.1, 1, "one")],
)
def test_the_scale_is_the_requested_or_by_size(
    megapixels: float, scale: int | None, name: str
) -> None:
    candidates = [
        model("one", "gaussian_noise", scale=1, task="denoise"),
        model("two", scale=2),
        model("four", scale=4),
    ]
    measured = {**CLEAN, "megapixels": megapixels}
    assert select_model(measured, SelectionRequest(scale=scale), candidates).model == name


def test_a_request_without_a_model_is_refused_with_the_candidates() -> None:
    with pytest.raises(NoModelFits, match=r"of scale 3.*clean_x4 \(x4, super-resolution\)"):
        select_model(CLEAN, SelectionRequest(scale=3), ALL)
    with pytest.raises(NoModelFits, match=r"deblur.*real_x4"):
        select_model(CLEAN, SelectionRequest(task="deblur"), ALL)
    with pytest.raises(NoModelFits, match="none"):
        select_model(CLEAN, SelectionRequest(), [])


def test_a_bundle_is_a_candidate(tiny_bundle) -> None:
    bundle = tiny_bundle()
    candidate = Candidate.of(bundle.info, seconds_per_megapixel=2.0)
    assert (candidate.name, candidate.scale, candidate.degradation) == ("compact_x2", 2, "bicubic")
    assert select_model(CLEAN, SelectionRequest(), [candidate]).model == "compact_x2"


def test_every_degradation_states_the_damages_it_trains_for() -> None:
    stated = {kind: DEGRADATIONS.get(kind).damages for kind in DEGRADATIONS.built_in}
    assert {kind for kind, damages in stated.items() if not damages} == {"bicubic"}
    damages = {rule.damage for rule in DEGRADATION_RULES}
    assert frozenset().union(*stated.values()) == damages


def test_the_documentation_contains_the_rule_tables() -> None:
    page = Path(__file__).parents[3] / "docs" / "evaluation.md"
    assert rule_tables() in page.read_text()


def test_the_damage_of_a_photograph_selects_the_model() -> None:
    skimage = pytest.importorskip("skimage.data")
    from superres.image.resize import imresize

    clean = imresize(skimage.astronaut(), scale=0.25)
    noise = np.random.default_rng(0).normal(0, 14, clean.shape)
    noisy = np.clip(clean + noise, 0, 255).astype(np.uint8)
    for pixels, name in (
        (clean, "clean_x4"),
        (compress(clean, 40), "jpeg_x4"),
        (compress(clean, 75)[3:, 5:], "jpeg_x4"),
        (noisy, "real_x4"),
    ):
        assert select_model(examine(pixels), SelectionRequest(scale=4), ALL).model == name


def test_model_selection_imports_no_torch() -> None:
    code = (
        "import sys, superres.analysis.model_selection, superres.analysis.degradation_features\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
