"""A mix is parsed strictly, and its kinds are drawn by weight from the seed."""

from collections import Counter

import numpy as np
import pytest
import yaml
from numpy.testing import assert_array_equal

from superres.common.errors import UsageError
from superres.degrade import degrade, parse

WRITTEN = "{real_esrgan: 0.7, bicubic_jpeg: 0.2, bicubic: 0.1}"


def test_text_and_mapping_parse_to_the_same_mix() -> None:
    assert parse(WRITTEN) == parse(yaml.safe_load(WRITTEN))
    assert parse(parse(WRITTEN).text) == parse(WRITTEN)
    assert parse("{bicubic: 0.1,bicubic_jpeg: .2, real_esrgan: 0.70}").text == parse(WRITTEN).text


def test_a_single_kind_is_written_as_its_name() -> None:
    assert parse("bicubic").text == "bicubic"
    assert parse({"bicubic": 3}).text == "bicubic"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{real_esrgan: 0.7, blurry: 0.3}", "no degradation 'blurry'"),
        ("{bicubic: 0.5, bicubic: 0.5}", "'bicubic' is repeated"),
        ("{bicubic: 0}", "'bicubic' has the weight 0.0"),
        ("{bicubic: -1, jpeg: 2}", "'bicubic' has the weight -1.0"),
        ("{bicubic: nan, jpeg: 2}", "'bicubic' has the weight nan"),
        ("{bicubic: much, jpeg: 2}", "'bicubic' has the weight 'much'"),
        ("{bicubic, jpeg: 2}", "'bicubic' has the weight ''"),
        ("{}", "an empty mix"),
        ("{bicubic: 1", "no closing brace"),
        ({"bicubic": True, "jpeg": 1}, "'bicubic' has the weight True"),
        ({"bicubic": "1", "jpeg": 1}, "'bicubic' has the weight '1'"),
        ("", "no degradation ''"),
    ],
)
def test_an_invalid_mix_is_refused_by_name(written: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(written)


def test_kinds_are_drawn_by_their_weights() -> None:
    mix = parse(WRITTEN)
    drawn = Counter(mix.choose(seed) for seed in range(3000))
    for kind, weight in mix.weights:
        assert abs(drawn[kind] / 3000 - weight) < 0.03
    assert all(mix.choose(seed) == parse(mix.text).choose(seed) for seed in range(50))


def test_weights_need_not_sum_to_one() -> None:
    mix, tenfold = parse("{jpeg: 1, motion: 3}"), parse("{jpeg: 10, motion: 30}")
    assert [mix.choose(seed) for seed in range(99)] == [tenfold.choose(seed) for seed in range(99)]


def test_a_drawn_kind_gives_the_same_as_alone() -> None:
    hr_hwc_u8 = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    kinds = set()
    for seed in range(12):
        mixed = degrade(hr_hwc_u8, kind="{jpeg: 1, motion: 1}", scale=2, seed=seed)
        kind = mixed.parameters.pop("kind")
        alone = degrade(hr_hwc_u8, kind=kind, scale=2, seed=seed)
        assert_array_equal(mixed.lr_hwc_u8, alone.lr_hwc_u8)
        assert mixed.parameters == alone.parameters
        kinds.add(kind)
    assert kinds == {"jpeg", "motion"}
