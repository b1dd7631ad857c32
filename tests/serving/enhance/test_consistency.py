import httpx
import numpy as np
import pytest

from serving.enhance.consistency import REGION_SIDE, check_strip, excess_levels, shrunk
from superres.image.codecs import Picture, decode, encode
from superres.image.resize import imresize

LIMIT = 12.0


def smooth(seed, side=96):
    """A picture with detail at several scales, like a photograph."""
    generator = np.random.default_rng(seed)
    total = np.full((side, side, 3), 128.0)
    for cells in (3, 12, 48):
        total += imresize(
            generator.normal(0, 90 / np.sqrt(cells), (cells, cells, 3)), size=(side,) * 2
        )
    return np.clip(total, 0, 255).astype(np.uint8)


def check(lr, answer, scale):
    return check_strip(Picture(rgb_hwc=lr), answer, top=0, scale=scale, limit_levels=LIMIT)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize(
    "restore",
    [
        lambda lr: lr,
        lambda lr: imresize(imresize(lr, scale=1 / 3), size=lr.shape[:2]),  # much detail removed
        lambda lr: np.clip(
            2.0 * lr - imresize(imresize(lr, scale=0.5), size=lr.shape[:2]), 0, 255
        ).astype(np.uint8),  # sharpened
    ],
)
def test_correct_answers_pass(scale, restore):
    lr = smooth(0)
    answer = restore(lr)
    result = check(lr, imresize(answer, scale=scale) if scale > 1 else answer, scale)
    assert result.ok
    assert result.worst_levels < LIMIT / 2


def test_pure_noise_that_was_removed_passes():
    lr = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    flat = np.full((128, 128, 3), 128, np.uint8)
    assert check(lr, flat, 2).ok


@pytest.mark.parametrize("blank", [True, False])
def test_one_blank_or_stale_tile_is_found(blank):
    lr = smooth(1)
    answer = lr.repeat(2, axis=0).repeat(2, axis=1)
    before = answer[64:128, 64:128].copy()
    answer[64:128, :64] = 0 if blank else before
    result = check(lr, answer, 2)
    assert not result.ok
    assert result.inconsistent_regions == 1
    assert result.worst_levels > LIMIT


def test_answer_to_another_picture_is_found_in_most_regions():
    result = check(smooth(2), smooth(3).repeat(2, axis=0).repeat(2, axis=1), 2)
    assert result.inconsistent_regions >= 5


def test_results_of_strips_add_up():
    lr = smooth(4, side=70)
    answer = lr.repeat(2, axis=0).repeat(2, axis=1)
    answer[: 2 * REGION_SIDE, : 2 * REGION_SIDE] = 0
    picture = Picture(rgb_hwc=lr)
    whole = check_strip(picture, answer, top=0, scale=2, limit_levels=LIMIT)
    upper, lower = (
        check_strip(picture, answer[rows], top=top, scale=2, limit_levels=LIMIT)
        for top, rows in ((0, slice(0, 64)), (32, slice(64, None)))
    )
    assert upper.combined_with(lower) == whole
    assert lower.ok


def test_16_bit_pictures_are_measured_in_the_same_levels():
    lr, answer = smooth(5), imresize(smooth(6), scale=2)
    deep = [array.astype(np.uint16) * 257 for array in (lr, answer)]
    plain = excess_levels(lr, shrunk(answer, 2))
    assert np.allclose(excess_levels(deep[0], shrunk(deep[1], 2)), plain, atol=0.01)


class WrongOutputBackend:
    """A backend that returns zeros for tiles for which `is_wrong` is true."""

    name, device, precision = "wrong", "cpu", "fp32"
    any_shape = False

    def __init__(self, bundle):
        self.scale = bundle.info.scale
        self.is_wrong = lambda tile: False

    def forward(self, tiles_bhwc):
        results = [np.zeros_like(tile) if self.is_wrong(tile) else tile for tile in tiles_bhwc]
        return np.stack(results).repeat(self.scale, axis=1).repeat(self.scale, axis=2)

    def warm_up(self, shapes_hw):
        pass

    def close(self):
        pass


@pytest.fixture
def wrong_output_server(picture_server, models_folder):
    """Makes servers with such a backend: `wrong_output_server(action)`."""

    def make(action):
        made = []

        def load(bundle, device):
            made.append(WrongOutputBackend(bundle))
            return made[-1]

        server = picture_server(
            models_folder,
            load_backend=load,
            consistency={"action": action},
            batch={"max_tiles": 1, "max_wait_seconds": 0},
        )
        return server, made[0]

    return make


def tall(lower):
    """A picture of several rows of tiles, with the value `lower` in the last ones."""
    rgb_hwc = np.full((200, 60, 3), 90, np.uint8)
    rgb_hwc[150:] = lower
    return encode(Picture(rgb_hwc=rgb_hwc), "png")


def flat(value):
    return encode(Picture(rgb_hwc=np.full((30, 30, 3), value, np.uint8)), "png")


def post(server, data, **options):
    return server.client.post("/v1/enhance", content=data, params=options)


def inconsistent_regions(server):
    value = server.services.metrics.registry.get_sample_value
    labels = {"model": "compact_x2", "version": "local"}
    return value("sharpline_inconsistent_regions_total", labels) or 0


def test_wrong_answer_is_refused_and_counted(wrong_output_server):
    server, device = wrong_output_server("refuse")
    device.is_wrong = lambda tile: (tile == 200).all()
    good = post(server, flat(90))
    assert good.headers["Sharpline-Consistency"] == "ok; worst-levels=0.0; regions=0"
    refused = post(server, flat(200))
    assert refused.status_code == 500
    assert refused.json()["type"] == "/problems/inconsistent-output"
    assert inconsistent_regions(server) >= 1


def test_wrong_strip_after_the_first_aborts_the_response(wrong_output_server):
    server, device = wrong_output_server("refuse")
    device.is_wrong = lambda tile: (tile[-1] == 200).all()
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        post(server, tall(200))
    value = server.services.metrics.registry.get_sample_value
    server.wait_for(
        lambda: value("sharpline_responses_aborted_total", {"reason": "inconsistent-output"}) == 1
    )


def test_wrong_answer_is_flagged_with_action_flag(wrong_output_server):
    server, device = wrong_output_server("flag")
    device.is_wrong = lambda tile: (tile[-1] == 200).all()
    answer = post(server, tall(200))
    assert answer.status_code == 200
    assert answer.headers["Sharpline-Consistency"].startswith("violated; worst-levels=200.0")
    assert decode(answer.content).height == 400
    assert inconsistent_regions(server) >= 1


def test_check_can_be_switched_off(wrong_output_server):
    server, device = wrong_output_server("off")
    device.is_wrong = lambda tile: True
    assert post(server, flat(90)).status_code == 200
    assert inconsistent_regions(server) == 0
