import shutil

import numpy as np
import pytest

from serving.setting_groups import DriftSettings
from serving.telemetry.drift import BLOCK_SIDE, LiveWindow, Observation, consistency_db, distance
from superres.analysis.degradation_features import FEATURES, measure, summarise
from superres.image.codecs import Picture, encode
from superres.image.resize import imresize
from superres.model.bundle import FeatureStats


def spread(mean, std):
    return FeatureStats(mean=mean, std=std, p05=0, p50=0, p95=0)


def observation(consistency=30.0, **features):
    return Observation(features=features, consistency_db=consistency)


def smooth_picture(seed, noise=0.0, side=64):
    generator = np.random.default_rng(seed)
    small = generator.integers(40, 216, (8, 8, 3)).astype(np.float64)
    large = imresize(small, size=(side, side))
    noisy = large + generator.normal(0, noise, large.shape) if noise else large
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def test_drift_is_the_distance_of_means_in_reference_deviations():
    window = LiveWindow(DriftSettings(minimum=2))
    window.add("m", observation(noise=4.0, blur=0.5))
    window.add("m", observation(noise=6.0, blur=0.5))
    reference = {"m": {"noise": spread(3.0, 0.5), "blur": spread(0.5, 0.1)}}
    assert window.drift(reference) == {("noise", "m"): 4.0, ("blur", "m"): 0.0}


def test_too_few_pictures_report_their_number_but_no_drift():
    window = LiveWindow(DriftSettings(minimum=3))
    for _ in range(2):
        window.add("m", observation(noise=4.0))
    assert window.drift({"m": {"noise": spread(0, 1)}}) == {}
    assert window.pictures() == {"m": 2}


def test_models_and_features_without_a_reference_are_left_out():
    window = LiveWindow(DriftSettings(minimum=1))
    window.add("m", observation(noise=4.0))
    window.add("n", observation(noise=4.0))
    assert window.drift({"m": {"blur": spread(0, 1)}, "n": {"noise": spread(4, 1)}}) == {
        ("noise", "n"): 0.0
    }


def test_old_pictures_and_those_beyond_the_window_are_dropped(clock):
    window = LiveWindow(DriftSettings(window=2, minimum=1, max_age_seconds=60), clock)
    for noise in (1.0, 2.0, 3.0):
        window.add("m", observation(noise=noise, consistency=10 * noise))
    reference = {"m": {"noise": spread(0, 1)}}
    assert window.drift(reference) == {("noise", "m"): 2.5}
    assert window.consistency() == {"m": 25.0}
    clock.seconds = 61
    assert window.drift(reference) == {}
    assert window.consistency() == {}


def test_constant_training_feature_does_not_make_the_distance_infinite():
    assert distance(1.0, spread(1.0, 0.0)) == 0.0
    assert distance(1.1, spread(1.0, 0.0)) == pytest.approx(10.0)


@pytest.mark.parametrize("side", [1, 5, 40, 3 * BLOCK_SIDE + 1, 260])
def test_correct_answers_are_consistent_at_any_size(side):
    lr = smooth_picture(1, side=side)
    answer = Picture(rgb_hwc=imresize(lr, scale=4))
    assert consistency_db(Picture(rgb_hwc=lr), answer) > 30


def test_an_answer_to_another_picture_is_not_consistent():
    lr = Picture(rgb_hwc=smooth_picture(1))
    other = Picture(rgb_hwc=imresize(smooth_picture(2), scale=2))
    assert consistency_db(lr, other) < 20


def test_one_blank_tile_among_many_lowers_the_consistency():
    lr = smooth_picture(1, side=200)
    answer = imresize(lr, scale=2)
    good = consistency_db(Picture(rgb_hwc=lr), Picture(rgb_hwc=answer))
    answer[150:250, 150:250] = 0
    assert consistency_db(Picture(rgb_hwc=lr), Picture(rgb_hwc=answer)) < good - 15


def test_16_bit_pictures_are_measured_like_8_bit_ones():
    lr = smooth_picture(1)
    deep = [Picture(rgb_hwc=part.astype(np.uint16) * 257) for part in (lr, imresize(lr, scale=2))]
    plain = [Picture(rgb_hwc=part) for part in (lr, imresize(lr, scale=2))]
    assert consistency_db(*deep) == pytest.approx(consistency_db(*plain), abs=3)


def test_drift_rises_with_noisy_pictures(
    picture_server, models_folder, numpy_backends, tiny_bundle, with_info
):
    bundle = tiny_bundle()
    reference = summarise([measure(smooth_picture(seed, noise=2.0)) for seed in range(20)])
    training = {**bundle.info.training.model_dump(mode="json"), "reference": reference}
    shutil.rmtree(models_folder / "compact_x2")
    shutil.copytree(with_info(bundle, training=training).root, models_folder / "compact_x2")
    server = picture_server(
        models_folder, load_backend=numpy_backends, drift={"window": 20, "minimum": 10}
    )

    def drift_after(noise):
        for seed in range(100, 120):
            data = encode(Picture(rgb_hwc=smooth_picture(seed, noise=noise)), "png")
            assert server.client.post("/v1/enhance", content=data).status_code == 200
        text = server.client.get("/metrics").text.splitlines()
        lines = [line for line in text if line.startswith("sharpline_input_drift{")]
        return {line.split('"')[1]: float(line.split()[-1]) for line in lines}

    usual = drift_after(2.0)
    assert set(usual) == set(FEATURES)
    assert usual["noise"] < 1
    assert drift_after(12.0)["noise"] > 5
    assert drift_after(2.0) == usual
    value = server.services.metrics.registry.get_sample_value
    assert value("sharpline_drift_pictures", {"model": "compact_x2"}) == 20
    assert value("sharpline_consistency_db", {"model": "compact_x2"}) > 25
