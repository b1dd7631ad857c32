"""Properties of the bootstrap: equal models, better models, too little data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.bootstrap import PairedErrors, TooFewPictures, paired_gain
from release.rules import Resampling
from superres.quality.blocks import Grid

RESAMPLING = Resampling(
    confidence=0.95, resamples=300, seed=7, block_pixels=64, min_pictures=2, min_blocks=8
)


@st.composite
def sets_of_errors(draw):
    """Two to five pictures of four to nine blocks with strictly positive, unequal errors."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pictures = []
    for index in range(draw(st.integers(2, 5))):
        blocks = draw(st.integers(4, 9))
        values = generator.integers(64, 200, blocks).astype(float)
        pictures.append(
            PairedErrors(
                name=f"p{index}",
                values=values,
                ours=values * generator.uniform(1, 500, blocks),
                theirs=values * generator.uniform(1, 500, blocks),
            )
        )
    return pictures


def of(picture, ours, theirs):
    return PairedErrors(name=picture.name, ours=ours, theirs=theirs, values=picture.values)


@given(sets_of_errors())
def test_identical_models_have_gain_zero_and_an_interval_around_it(pictures):
    gain = paired_gain([of(p, p.ours, p.ours.copy()) for p in pictures], RESAMPLING)
    assert gain.mean_db == 0
    assert gain.lower_db <= 0 <= gain.upper_db


@given(sets_of_errors(), st.floats(0.05, 6.0))
def test_a_uniformly_better_model_gains_exactly_its_margin_everywhere(pictures, margin_db):
    factor = 10 ** (-margin_db / 10)
    gain = paired_gain([of(p, p.theirs * factor, p.theirs) for p in pictures], RESAMPLING)
    values = [gain.mean_db, gain.lower_db, gain.upper_db]
    assert values == pytest.approx([margin_db] * 3, abs=1e-9)


@given(sets_of_errors())
def test_swapping_the_models_mirrors_the_interval(pictures):
    gain = paired_gain(pictures, RESAMPLING)
    swapped = paired_gain([of(p, p.theirs, p.ours) for p in pictures], RESAMPLING)
    assert swapped.mean_db == pytest.approx(-gain.mean_db, abs=1e-9)
    assert (swapped.lower_db, swapped.upper_db) == pytest.approx((-gain.upper_db, -gain.lower_db))


@given(sets_of_errors())
def test_the_mean_is_the_gain_of_the_whole_pictures(pictures):
    expected = np.mean(
        [
            10 * np.log10((p.theirs.sum() / p.values.sum()) / (p.ours.sum() / p.values.sum()))
            for p in pictures
        ]
    )
    gain = paired_gain(pictures, RESAMPLING)
    assert gain.mean_db == pytest.approx(expected)
    assert gain.lower_db <= gain.upper_db
    assert gain.pictures == len(pictures)
    assert gain.blocks == sum(p.values.size for p in pictures)


@given(sets_of_errors(), st.floats(0.5, 0.9))
def test_more_confidence_never_narrows_the_interval(pictures, confidence):
    narrow = paired_gain(pictures, _with(confidence=confidence))
    wide = paired_gain(pictures, _with(confidence=0.99))
    assert wide.lower_db <= narrow.lower_db
    assert narrow.upper_db <= wide.upper_db


def test_the_interval_covers_the_truth_about_as_often_as_it_claims():
    """Exchangeable models, pictures of different difficulty: the true gain is zero."""
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(200):
        pictures = []
        for index in range(24):
            difficulty, bias = generator.uniform(20, 400), generator.normal(0, 0.1)
            blocks = difficulty * generator.gamma(2.0, 0.5, 12)
            noise = generator.normal(0, 0.05, (2, 12))
            pictures.append(
                PairedErrors(
                    name=str(index),
                    values=np.ones(12),
                    ours=blocks * np.exp(noise[0] + bias),
                    theirs=blocks * np.exp(noise[1]),
                )
            )
        gain = paired_gain(pictures, _with(resamples=400, confidence=0.9))
        covered += gain.lower_db <= 0 <= gain.upper_db
    assert 0.84 <= covered / 200 <= 0.98


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    generator = np.random.default_rng(3)
    pictures = [
        PairedErrors(
            name=str(i),
            values=np.ones(9),
            ours=generator.uniform(1, 9, 9),
            theirs=generator.uniform(1, 9, 9),
        )
        for i in range(4)
    ]
    assert paired_gain(pictures, RESAMPLING) == paired_gain(pictures, RESAMPLING)
    assert paired_gain(pictures, RESAMPLING) != paired_gain(pictures, _with(seed=8))


@pytest.mark.parametrize(("confidence", "upper_db"), [(0.95, 6.0), (0.8, 4.0)])
def test_the_interval_has_the_quantiles_of_resampled_means(confidence, upper_db):
    """Of gains 0, 0 and 6 dB three draws have means 0, 2, 4, 6: 30 %, 44 %, 22 % and 4 %."""
    ones = np.ones(4)
    pictures = [
        PairedErrors(name=str(gain_db), values=ones, ours=ones, theirs=ones * 10 ** (gain_db / 10))
        for gain_db in (0.0, 0.0, 6.0)
    ]
    gain = paired_gain(pictures, _with(resamples=2000, confidence=confidence))
    assert (gain.lower_db, gain.upper_db) == pytest.approx((0.0, upper_db), abs=1e-9)


def test_blocks_are_drawn_anew_in_each_resample():
    """Otherwise an interval would depend on a few draws, and so on the seed."""
    theirs = np.tile([0.25, 4.0], 8)
    pictures = [
        PairedErrors(name=str(i), values=np.ones(16), ours=np.ones(16), theirs=theirs)
        for i in range(2)
    ]
    gains = [paired_gain(pictures, _with(seed=seed, resamples=1000)) for seed in range(4)]
    widths = [gain.upper_db - gain.lower_db for gain in gains]
    assert min(widths) > 2.0
    assert max(widths) < 1.2 * min(widths)


@pytest.mark.parametrize(
    ("pictures", "blocks", "short"),
    [(1, 40, "1 pictures"), (2, 3, "6 blocks"), (0, 0, "0 pictures")],
)
def test_too_few_pictures_or_blocks_are_not_judged(pictures, blocks, short):
    errors = [
        PairedErrors(
            name=str(i), values=np.ones(blocks), ours=np.ones(blocks), theirs=np.full(blocks, 4.0)
        )
        for i in range(pictures)
    ]
    with pytest.raises(TooFewPictures, match=short):
        paired_gain(errors, RESAMPLING)


def test_a_perfect_picture_has_a_finite_gain():
    errors = [
        PairedErrors(name=str(i), values=np.ones(4), ours=np.zeros(4), theirs=np.ones(4))
        for i in range(2)
    ]
    assert np.isfinite(paired_gain(errors, RESAMPLING).upper_db)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 32))
def test_blocks_cover_every_pixel_once_and_have_a_minimum_size(height, width, side):
    error = np.random.default_rng(height * width).uniform(0, 9, (height, width))
    grid = Grid.over(height, width, side)
    sums, counts = grid.sums(error), grid.counts
    assert sums.shape == counts.shape == (max(1, height // side) * max(1, width // side),)
    assert counts.sum() == error.size
    assert sums.sum() == pytest.approx(error.sum())
    assert counts.min() >= min(height, side) * min(width, side)


def test_the_centre_of_a_block_lies_in_it():
    grid = Grid.over(64, 96, 32)
    assert [grid.centre(index) for index in range(6)] == [
        (16, 16),
        (16, 48),
        (16, 80),
        (48, 16),
        (48, 48),
        (48, 80),
    ]
    assert Grid.over(65, 99, 32).centre(5) == (48, 82)


def _with(**changes):
    return RESAMPLING.model_copy(update=changes)
