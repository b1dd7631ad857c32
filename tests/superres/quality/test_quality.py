"""Scores equal the reference implementations'; different protocols are not compared."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from superres.common.errors import SharplineError
from superres.evaluation.evaluate import load_pairs
from superres.image.resize import imresize
from superres.quality import (
    Protocol,
    ProtocolMismatch,
    Score,
    luma,
    psnr,
    require_same,
    score,
    squared_error,
    ssim,
)
from superres.quality.intervals import Interval, mean_interval, percentiles, psnr_interval
from superres.quality.metric import QualityMetric
from superres.quality.metrics import load_metric

RGB = Protocol(dataset="made", scale=4, channel="rgb", border=4)


def noisy_pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 256, (48, 40, 3), dtype=np.uint8)
    noise = generator.normal(0, 12, truth.shape)
    return np.clip(truth + noise, 0, 255).astype(np.uint8), truth


def test_bicubic_on_set5_has_the_published_scores(reference_data: Path) -> None:
    pair_set = load_pairs(reference_data / "data" / "set5" / "HR", 4)
    protocol = pair_set.protocol("y")
    scores = [
        score(imresize(pair.lr.rgb_hwc, scale=4), pair.hr.rgb_hwc, protocol)
        for pair in pair_set.pairs
    ]
    assert np.mean([each.psnr for each in scores]) == pytest.approx(28.42, abs=0.02)
    assert np.mean([each.ssim for each in scores]) == pytest.approx(0.810, abs=0.001)


@pytest.mark.filterwarnings("ignore")
def test_scores_equal_basicsr() -> None:
    from training.basicsr_bridge import load_basicsr

    load_basicsr()
    from basicsr.metrics import calculate_psnr, calculate_ssim

    test, truth = noisy_pair()
    bgr = (test[..., ::-1], truth[..., ::-1])
    assert psnr(test, truth, RGB) == pytest.approx(calculate_psnr(*bgr, 4), abs=1e-6)
    assert ssim(test, truth, RGB) == pytest.approx(calculate_ssim(*bgr, 4), abs=1e-9)
    # basicsr leaves luma unrounded, the published tables round it: a hundredth of a decibel apart.
    of_luma = replace(RGB, channel="y")
    theirs = calculate_psnr(*bgr, 4, test_y_channel=True)
    assert psnr(test, truth, of_luma) == pytest.approx(theirs, abs=0.05)


def test_equal_pictures_have_infinite_psnr() -> None:
    _, truth = noisy_pair()
    assert math.isinf(psnr(truth, truth, RGB))
    assert ssim(truth, truth, RGB) == pytest.approx(1.0)


def test_the_border_is_cropped() -> None:
    test, truth = noisy_pair()
    spoiled = test.copy()
    spoiled[:4], spoiled[-4:], spoiled[:, :4], spoiled[:, -4:] = 0, 0, 0, 0
    assert psnr(spoiled, truth, RGB) == psnr(test, truth, RGB)


def test_squared_errors_add_up_to_psnr() -> None:
    test, truth = noisy_pair()
    errors = squared_error(test, truth, RGB)
    assert errors.shape == (40, 32)
    assert 10 * math.log10(255**2 / errors.mean()) == pytest.approx(psnr(test, truth, RGB))


def test_16_bit_pictures_score_as_8_bit() -> None:
    test, truth = noisy_pair()
    deep = replace(RGB, bit_depth=16)
    assert psnr(test.astype(np.uint16) * 257, truth.astype(np.uint16) * 257, deep) == pytest.approx(
        psnr(test, truth, RGB)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"channel": "y"},
        {"border": 2},
        {"dataset": "other"},
        {"resampler": "lanczos"},
        {"ssim": "uniform-7"},
        {"scale": 2},
        {"bit_depth": 16},
    ],
)
def test_scores_of_different_protocols_are_not_compared(change: dict) -> None:
    first = Score(protocol=RGB, psnr=30.0, ssim=0.9)
    assert first.gain_over(replace(first, psnr=29.5)) == 0.5
    with pytest.raises(ProtocolMismatch, match=next(iter(change))):
        first.gain_over(replace(first, protocol=replace(RGB, **change)))


def test_every_difference_of_two_protocols_is_named() -> None:
    with pytest.raises(ProtocolMismatch) as caught:
        require_same(RGB, replace(RGB, scale=2, border=0))
    assert str(caught.value) == (
        "these scores were measured differently and cannot be compared: scale (4 against 2), "
        "border (4 against 0); measure both again under one protocol"
    )


def test_a_score_states_its_protocol() -> None:
    test, truth = noisy_pair()
    measured = score(test, truth, RGB)
    assert measured == Score(protocol=RGB, psnr=psnr(test, truth, RGB), ssim=ssim(test, truth, RGB))


def test_a_protocol_round_trips_through_json() -> None:
    assert Protocol.from_dict(RGB.as_dict()) == RGB
    assert "x4" in str(RGB)
    assert "RGB" in str(RGB)


def test_pictures_too_small_for_ssim_are_refused() -> None:
    least = noisy_pair()[1][:19, :19]
    assert ssim(least, least, RGB) == pytest.approx(1.0)
    with pytest.raises(SharplineError, match=r"11x11 pixels.*leaves 11x10"):
        ssim(least[:-1], least[:-1], RGB)


def test_luma_is_that_of_matlab() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    assert luma(colours.astype(float)).ravel().tolist() == [16, 235, 81, 145, 41]


def test_percentiles_leave_out_both_tails_equally() -> None:
    assert percentiles(np.arange(101.0), 0.9) == Interval(pytest.approx(5), pytest.approx(95))


def test_an_interval_needs_two_values_and_is_the_same_in_every_run() -> None:
    errors, counts = np.array([1.0, 4.0]), np.ones(2)
    interval = psnr_interval(errors, counts)
    levels = 20 * math.log10(255) - 10 * np.log10(errors)
    assert interval == Interval(pytest.approx(levels[1]), pytest.approx(levels[0]))
    many = np.random.default_rng(0).random(30)
    assert psnr_interval(many, np.ones(30)) == psnr_interval(many, np.ones(30))
    assert psnr_interval(errors[:1], counts[:1]) is None
    assert mean_interval([1.0, 4.0]) == Interval(1.0, 4.0)
    assert mean_interval(many.tolist()) == mean_interval(many.tolist())
    assert mean_interval([1.0]) is None


def test_a_gain_is_positive_where_the_metric_is_better() -> None:
    higher = load_metric("psnr")
    assert higher.gain(31.0, 30.0) == 1.0
    assert replace(higher, better="lower").gain(31.0, 30.0) == -1.0


def test_a_metric_needs_functions() -> None:
    with pytest.raises(TypeError, match="compute"):
        replace(load_metric("psnr"), compute=1)
    with pytest.raises(TypeError, match="load"):
        QualityMetric(name="acme", load=1)
