import socket

import httpx
import numpy as np
import pytest

from superres.image.codecs import Picture, StripEncoder, decode, encode
from superres.image.resize import imresize
from superres.image.strips import enlarged_frame, enlarged_strip, resampled_rows
from superres.model.upscaler import enlarged


def request(data, version="1.1", query="format=png"):
    head = f"POST /v1/enhance?{query} HTTP/{version}\r\nHost: localhost\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


def tall_png(height=300, width=200):
    rgb_hwc = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return encode(Picture(rgb_hwc=rgb_hwc), "png")


@pytest.fixture
def single_tile_server(picture_server, models_folder, numpy_backends):
    """A server whose device runs one tile at a time and blocks at a gate."""
    server = picture_server(
        models_folder,
        load_backend=numpy_backends,
        batch={"max_tiles": 1, "max_wait_seconds": 0},
    )
    yield server, numpy_backends.made[0]
    numpy_backends.made[0].gate.set()


class BatchGate:
    """Wraps a backend's `forward`: runs `left` batches, then closes the gate."""

    def __init__(self, backend, left):
        self._forward = backend.forward
        self._backend = backend
        self.left = left
        backend.forward = self.forward

    def forward(self, tiles_bhwc):
        if self.left == 0:
            self._backend.gate.clear()
        self.left -= 1
        return self._forward(tiles_bhwc)


def test_first_rows_are_sent_before_the_last_are_computed(single_tile_server, repeated):
    server, backend = single_tile_server
    data = tall_png()
    BatchGate(backend, left=8)  # of tiles in rows of four or more
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(request(data))
        received = b""
        while b"IDAT" not in received:
            received += raw.recv(65536)
        assert (
            b"Transfer-Encoding: chunked" in received or b"transfer-encoding: chunked" in received
        )
        assert b"sharpline-model: compact_x2" in received.lower()
        assert not received.endswith(b"0\r\n\r\n")
        assert server.services.pictures.admission.in_flight == 1
        assert backend.held.wait(60)  # opened before it is closed, the gate would stay closed
        backend.gate.set()
        while not received.endswith(b"0\r\n\r\n"):
            received += raw.recv(65536)
    whole = server.client.post("/v1/enhance", content=data, params={"format": "png"})
    assert np.array_equal(decode(whole.content).rgb_hwc, repeated(decode(data).rgb_hwc))
    server.wait_for(lambda: server.services.pictures.admission.in_flight == 0)


def test_http_1_0_gets_the_whole_answer_with_content_length(single_tile_server, repeated):
    server, _ = single_tile_server
    data = tall_png()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(request(data, version="1.0"))
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head.lower()
    assert b"chunked" not in head.lower()
    assert np.array_equal(decode(body).rgb_hwc, repeated(decode(data).rgb_hwc))


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_answer_of_one_chunk_has_content_length(single_tile_server, noise_png, format):
    server, _ = single_tile_server
    answer = server.client.post("/v1/enhance", content=noise_png(20, 20), params={"format": format})
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_client_that_disconnects_frees_its_slot(single_tile_server):
    server, backend = single_tile_server
    BatchGate(backend, left=8)  # of tiles in rows of four or more
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(request(tall_png()))
        received = b""
        while b"IDAT" not in received:
            received += raw.recv(65536)
    server.wait_for(lambda: server.services.pictures.admission.in_flight == 0)
    server.wait_for(lambda: not server.services.scheduler.queued_tiles())
    value = server.services.metrics.registry.get_sample_value
    assert value("sharpline_responses_aborted_total", {"reason": "client-gone"}) == 1


def test_client_that_does_not_read_is_disconnected(picture_server, models_folder, numpy_backends):
    server = picture_server(
        models_folder, load_backend=numpy_backends, limits={"body_seconds": 2.0}
    )
    data = tall_png(height=1500, width=700)
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(20)
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(request(data))
        raw.recv(100)
        value = server.services.metrics.registry.get_sample_value
        server.wait_for(
            lambda: value("sharpline_responses_aborted_total", {"reason": "slow-client"}) == 1
        )
        server.wait_for(lambda: server.services.pictures.admission.in_flight == 0)


def test_deadline_during_the_response_aborts_it(single_tile_server):
    server, backend = single_tile_server
    batch_gate = BatchGate(backend, left=8)  # of tiles in rows of four or more
    for deadline in (1, 8, 64):  # a slow machine may not reach the middle in a second
        backend.gate.set()
        batch_gate.left = 8
        try:
            answer = server.client.post(
                "/v1/enhance", params={"deadline": deadline}, content=tall_png()
            )
        except httpx.RemoteProtocolError:  # the last chunk never came
            break
        assert answer.status_code == 504
    value = server.services.metrics.registry.get_sample_value
    server.wait_for(
        lambda: value("sharpline_responses_aborted_total", {"reason": "deadline-passed"}) == 1
    )


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resampled_rows_equal_those_of_the_whole_picture(scale, dtype):
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (41, 17, 3), dtype)
    whole = imresize(picture, scale=scale)
    for top in range(0, 41, 7):
        rows = slice(top, min(41, top + 7))
        part = resampled_rows(picture, rows, scale)
        assert np.array_equal(part, whole[top * scale : rows.stop * scale])


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("alpha", [False, True])
def test_file_encoded_in_strips_equals_the_whole_file(format, alpha):
    if format == "jpeg" and alpha:
        pytest.skip("jpeg holds no transparency")
    generator = np.random.default_rng(1)
    lr = Picture(
        rgb_hwc=generator.integers(0, 256, (40, 30, 3), np.uint8),
        alpha_hw=generator.integers(0, 256, (40, 30), np.uint8) if alpha else None,
        dpi=(72.0, 72.0),
    )
    sr_hwc = lr.rgb_hwc.repeat(2, axis=0).repeat(2, axis=1)
    encoder = StripEncoder(enlarged_frame(lr, 2), format)
    chunks = [
        encoder.add(enlarged_strip(lr, sr_hwc[2 * top : 2 * top + 16], top, 2))
        for top in range(0, 40, 8)
    ]
    from_stripes = decode(b"".join([*chunks, encoder.end()]))
    at_once = decode(encode(enlarged(lr, sr_hwc, 2), format))
    assert np.array_equal(from_stripes.rgb_hwc, at_once.rgb_hwc)
    assert from_stripes.dpi == at_once.dpi
    if alpha:
        assert np.array_equal(from_stripes.alpha_hw, at_once.alpha_hw)


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_missing_rows_are_an_error(format):
    lr = Picture(rgb_hwc=np.zeros((8, 8, 3), np.uint8))
    encoder = StripEncoder(enlarged_frame(lr, 2), format)
    encoder.add(enlarged_strip(lr, np.zeros((8, 16, 3), np.uint8), 0, 2))
    with pytest.raises(ValueError, match="8 rows given for a picture of 16"):
        encoder.end()
