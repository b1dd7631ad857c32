import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from superres.common.environment import cpu_threads
from superres.image.codecs import Picture, decode, encode


@pytest.fixture
def held_server(picture_server, models_folder, numpy_backends):
    """A factory of servers whose backend blocks at a gate: `held_server(**settings)`."""

    def make(**settings):
        server = picture_server(models_folder, load_backend=numpy_backends, **settings)
        backend = numpy_backends.made[-1]
        backend.gate.clear()
        return server, backend

    yield make
    for backend in numpy_backends.made:
        backend.gate.set()


def ask(server, data, **options):
    return server.client.post("/v1/enhance", content=data, params=options)


@contextlib.contextmanager
def held_request(server, backend, data):
    """A request whose tiles are at the gate; it is answered once the block ends."""
    with ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(ask, server, data)
        try:
            server.wait_for(backend.held.is_set)
            yield waiting
        finally:
            backend.gate.set()
        assert waiting.result().status_code == 200


def flat(value, side=40):
    return encode(Picture(rgb_hwc=np.full((side, side, 3), value, np.uint8)), "png")


def test_full_queue_responds_429_with_retry_after_and_recovers(held_server, noise_png):
    server, backend = held_server(queue={"max_pictures": 2})
    data = noise_png(20, 20)
    with ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(ask, server, data) for _ in range(2)]
        server.wait_for(lambda: server.services.pictures.admission.in_flight == 2)
        refused = ask(server, data)
        assert refused.status_code == 429
        assert refused.json()["type"] == "/problems/queue-full"
        assert int(refused.headers["Retry-After"]) >= 1
        backend.gate.set()
        assert [answer.result().status_code for answer in waiting] == [200, 200]
    assert ask(server, data).status_code == 200


def test_request_over_the_output_pixel_budget_is_refused(held_server, noise_png):
    server, backend = held_server(queue={"max_output_pixels": 40 * 40 * 4})
    with held_request(server, backend, noise_png(40, 40)):
        assert ask(server, noise_png(20, 20)).status_code == 429


def test_draining_server_refuses_new_requests_and_finishes_admitted_ones(held_server, noise_png):
    server, backend = held_server()
    with held_request(server, backend, noise_png(20, 20)):
        server.services.pictures.admission.drain()
        refused = ask(server, noise_png(20, 20))
        assert refused.status_code == 503
        assert refused.json()["type"] == "/problems/draining"
        assert int(refused.headers["Retry-After"]) >= 1
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/livez").status_code == 200


def test_deadline_responds_504_and_drops_the_tiles(held_server, noise_png):
    server, backend = held_server()
    # The model's cost is tiny, so admission accepts any deadline.
    server.services.pictures.costs.learn("compact_x2", pixels=10**15, seconds=1.0)
    with held_request(server, backend, noise_png(20, 20)):
        late = ask(server, noise_png(20, 20), deadline=0.3)
        assert late.status_code == 504
        assert late.json()["type"] == "/problems/deadline-passed"
        assert server.services.scheduler.queued_tiles() == {}


def test_servers_deadline_caps_the_requests_deadline(held_server, noise_png):
    server, _ = held_server(limits={"deadline_seconds": 0.3})
    for options in ({}, {"deadline": 50}):
        assert ask(server, noise_png(20, 20), **options).status_code == 504


def test_tiles_of_a_disconnected_client_are_dropped(held_server, noise_png):
    server, backend = held_server()
    with held_request(server, backend, noise_png(20, 20)):
        data = noise_png(20, 20)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as leaving:
            leaving.sendall(
                b"POST /v1/enhance HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: %d\r\n\r\n" % len(data) + data
            )
            server.wait_for(lambda: server.services.scheduler.queued_tiles())
        server.wait_for(lambda: not server.services.scheduler.queued_tiles())
        server.wait_for(lambda: server.services.pictures.admission.in_flight == 1)
    bundle = server.services.pictures.models.champions["compact_x2"].model.bundle
    warm_up_batches = len(bundle.info.tile_buckets)
    assert len(backend.batches) == warm_up_batches + 2, "warm-up, golden pair and one picture"
    labels = {"route": "/v1/enhance", "status": "499", "model": "compact_x2"}
    value = server.services.metrics.registry.get_sample_value
    server.wait_for(lambda: value("sharpline_requests_total", labels) == 1)


def test_failing_batch_fails_its_own_requests_only(held_server):
    server, backend = held_server(batch={"max_tiles": 1})
    backend.poison = 13
    with ThreadPoolExecutor(6) as clients:
        answers = [clients.submit(ask, server, flat(value)) for value in (1, 13, 2, 13, 3, 4)]
        server.wait_for(lambda: server.services.pictures.admission.in_flight == 6)
        backend.gate.set()
        statuses = [answer.result().status_code for answer in answers]
    assert statuses == [200, 500, 200, 500, 200, 200]
    failed = answers[1].result()
    assert failed.json()["type"] == "/problems/model-failed"
    assert "choked" not in failed.text, "details go to the log"
    assert server.client.get("/livez").status_code == 200
    value = server.services.metrics.registry.get_sample_value
    assert value("sharpline_batch_failures_total", {"model": "compact_x2"}) == 2


def test_no_tile_of_a_failed_batch_is_part_of_an_output(held_server):
    """A large picture with one poisoned tile gets an error, not a picture with a stale tile."""
    server, backend = held_server(batch={"max_tiles": 1})
    backend.gate.set()
    backend.poison = 13
    rgb_hwc = np.full((200, 200, 3), 7, np.uint8)
    rgb_hwc[:140, 40:180] = 13
    answer = ask(server, encode(Picture(rgb_hwc=rgb_hwc), "png"))
    assert answer.status_code == 500
    assert server.services.scheduler.queued_tiles() == {}


def test_response_that_fails_midway_is_aborted(held_server):
    server, backend = held_server(batch={"max_tiles": 1})
    backend.gate.set()
    backend.poison = 13
    rgb_hwc = np.full((200, 200, 3), 7, np.uint8)
    rgb_hwc[80:] = 13
    data = encode(Picture(rgb_hwc=rgb_hwc), "png")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        ask(server, data)
    server.wait_for(lambda: server.services.pictures.admission.in_flight == 0)
    assert server.services.scheduler.queued_tiles() == {}
    value = server.services.metrics.registry.get_sample_value
    assert value("sharpline_responses_aborted_total", {"reason": "model-failed"}) == 1


def test_health_and_models_answer_while_the_device_is_busy(held_server, noise_png):
    server, backend = held_server()
    with held_request(server, backend, noise_png(20, 20)) as waiting:
        for address in ("/livez", "/readyz", "/startupz", "/v1/models", "/metrics", "/"):
            assert httpx.get(server.url + address, timeout=60).status_code == 200, address
        backend.gate.set()
        assert decode(waiting.result().content).height == 40


def test_refusal_does_not_wait_for_running_decodes(held_server, noise_png, monkeypatch):
    server, backend = held_server()
    backend.gate.set()
    started, resume = threading.Event(), threading.Event()

    def slow(*arguments, **options):
        started.set()
        resume.wait(timeout=120)
        return decode(*arguments, **options)

    monkeypatch.setattr("serving.enhance.pictures.decode", slow)
    count = cpu_threads() + 1  # one more than there are worker threads
    with ThreadPoolExecutor(count) as clients:
        decoding = [clients.submit(ask, server, noise_png(20, 20)) for _ in range(count)]
        server.wait_for(
            lambda: server.services.pictures.admission.in_flight == count and started.is_set()
        )
        form = {"file": ("page.html", b"<html></html>" * 9)}
        assert ask(server, b"<html></html>" * 9).status_code == 415
        assert server.client.post("/v1/enhance", files=form).status_code == 415
        resume.set()
        assert [answer.result().status_code for answer in decoding] == [200] * count


def test_dead_engine_fails_liveness(picture_server, models_folder, numpy_backends, noise_png):
    server = picture_server(models_folder, load_backend=numpy_backends)
    server.services.engines.stop()
    assert server.client.get("/livez").status_code == 503
    assert server.client.get("/readyz").status_code == 503
    refused = ask(server, noise_png(20, 20))
    assert refused.status_code == 503
    assert refused.json()["type"] == "/problems/not-ready"
