import asyncio
import threading

import numpy as np
import pytest

from superres.common.files import write_json


class OffsetBackend:
    """A backend that repeats pixels and adds `levels`."""

    name, device, precision = "offset", "cpu", "fp32"
    any_shape = False

    def __init__(self, bundle, levels):
        self.scale = bundle.info.scale
        self.levels = levels
        self.gate = threading.Event()
        self.gate.set()
        self.batches = []
        self.fails = False

    def forward(self, tiles_bhwc):
        self.gate.wait(timeout=60)
        self.batches.append(len(tiles_bhwc))
        if self.fails:
            raise RuntimeError("the shadow is broken")
        large = tiles_bhwc.repeat(self.scale, axis=1).repeat(self.scale, axis=2)
        return np.clip(large.astype(int) + self.levels, 0, 255).astype(np.uint8)

    def warm_up(self, shapes_hw):
        pass

    def close(self):
        pass


@pytest.fixture
def shadow_server(picture_server, followed_folder, tiny_bundle):
    """A server with a shadow 3 levels brighter than its champion, and the two backends."""
    old, new = tiny_bundle(), tiny_bundle(error_levels=3)
    followed_folder.serve("compact_x2", followed_folder.add(old), 1)
    followed_folder.index["compact_x2"]["shadow"] = followed_folder.add(new)
    followed_folder.index["compact_x2"]["versions"][new.id] = "2"
    write_json(followed_folder.root / "index.json", followed_folder.index)
    backends = {}

    def load(bundle, device):
        levels = 3 if bundle.id == new.id else 0
        backends[levels] = OffsetBackend(bundle, levels)
        return backends[levels]

    server = picture_server(followed_folder.root, load_backend=load, batch={"max_tiles": 4})
    server.wait_for(lambda: server.services.pictures.models.routes["compact_x2"].shadow is not None)
    return server, backends[0], backends[3]


def count(server, outcome):
    labels = {"model": "compact_x2", "version": "2", "outcome": outcome}
    value = server.services.metrics.registry.get_sample_value
    return value("sharpline_shadow_tiles_total", labels) or 0


def enhance(server, data):
    return server.client.post("/v1/enhance", content=data)


def test_shadow_is_compared_after_the_answer_and_serves_no_request(shadow_server, noise_png):
    server, _, shadow = shadow_server
    shadow.batches.clear()
    shadow.gate.clear()
    answer = enhance(server, noise_png(150, 150))
    assert answer.headers["Sharpline-Version"] == "1"
    assert count(server, "compared") == 0
    shadow.gate.set()
    server.wait_for(lambda: count(server, "compared") == 2)
    assert set(shadow.batches) == {1}
    value = server.services.metrics.registry.get_sample_value
    labels = {"model": "compact_x2", "version": "2"}
    mean = value("sharpline_shadow_difference_levels_sum", labels) / 2
    assert mean == pytest.approx(3.0, abs=0.1)


def test_pictures_come_before_waiting_shadow_tiles(shadow_server, noise_png):
    server, champion, shadow = shadow_server
    shadow.gate.clear()
    enhance(server, noise_png(20, 20))
    server.wait_for(lambda: server.services.shadows._tasks)
    champion.batches.clear()
    shadow.gate.set()
    assert enhance(server, noise_png(20, 20)).status_code == 200
    assert champion.batches == [1]


def test_failed_shadow_is_counted_and_affects_no_request(shadow_server, noise_png):
    server, _, shadow = shadow_server
    shadow.fails = True
    assert enhance(server, noise_png(20, 20)).status_code == 200
    server.wait_for(lambda: count(server, "failed") == 1)
    assert enhance(server, noise_png(20, 20)).status_code == 200


def test_only_a_few_pictures_wait_for_a_shadow(shadow_server, noise_png):
    server, _, _ = shadow_server
    release = threading.Event()
    original = server.services.shadows._run_shadow

    async def delayed(*arguments):
        while not release.is_set():
            await asyncio.sleep(0.01)
        return await original(*arguments)

    server.services.shadows._run_shadow = delayed
    for _ in range(7):
        assert enhance(server, noise_png(20, 20)).status_code == 200
    assert count(server, "skipped") == 3
    release.set()
    server.wait_for(lambda: count(server, "compared") == 4)
