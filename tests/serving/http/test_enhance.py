import io
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from superres.image.codecs import Picture, decode, encode
from superres.model.backends import load_backend
from superres.model.upscaler import Upscaler


def enhance(server, content, **options):
    headers = options.pop("headers", {})
    return server.client.post("/v1/enhance", content=content, params=options, headers=headers)


def pixels(answer):
    assert answer.status_code == 200, answer.text
    return decode(answer.content).rgb_hwc


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (33, 1), (50, 70), (130, 90)])
def test_pictures_of_any_size_are_enlarged(server, noise_png, repeated, height, width):
    data = noise_png(height, width)
    answer = enhance(server, data, model="compact_x2")
    assert np.array_equal(pixels(answer), repeated(decode(data).rgb_hwc))


def test_response_headers_name_the_model_and_the_stages(server, noise_png):
    answer = enhance(server, noise_png(20, 20), model="compact_x2")
    model_version = server.services.pictures.models.champions["compact_x2"]
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Sharpline-Model"] == "compact_x2"
    assert answer.headers["Sharpline-Version"] == "local"
    assert answer.headers["Sharpline-Bundle"] == model_version.model.bundle.id
    stages = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["Server-Timing"])
    assert {stage for stage, _ in stages} == {"read", "decode", "network", "check", "encode"}


def test_model_is_selected_by_name_by_scale_or_by_default(server, noise_png):
    data = noise_png(10, 10)
    selected = {
        str(options): enhance(server, data, **options).headers["Sharpline-Model"]
        for options in (
            {},
            {"scale": 2},
            {"scale": 4},
            {"model": "compact_x2"},
            {"model": "compact_x2", "scale": 2},
        )
    }
    assert list(selected.values()) == [
        "compact_x4",
        "compact_x2",
        "compact_x4",
        "compact_x2",
        "compact_x2",
    ]


@pytest.mark.parametrize(
    ("options", "status", "label"),
    [
        ({"model": "nothing"}, 404, "unknown-model"),
        ({"model": "compact_x2", "scale": 4}, 422, "bad-options"),
        ({"scale": 3}, 422, "bad-options"),
        ({"scale": "two"}, 422, "bad-options"),
        ({"scale": 0}, 422, "bad-options"),
        ({"format": "gif"}, 422, "bad-options"),
        ({"quality": 101}, 422, "bad-options"),
        ({"colour": "red"}, 422, "bad-options"),
        ({"model": "m" * 100}, 422, "bad-options"),
        ({"headers": {"Accept": "text/html"}}, 406, "not-acceptable"),
    ],
)
def test_bad_options_are_refused(server, noise_png, options, status, label):
    answer = enhance(server, noise_png(8, 8), **options)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == f"/problems/{label}"
    assert answer.json()["instance"].endswith(answer.headers["X-Request-ID"])


@pytest.mark.parametrize(
    ("format", "media_type"),
    [(format, f"image/{format}") for format in ("png", "jpeg", "webp", "tiff", "avif")],
)
def test_output_has_the_requested_format(server, noise_png, format, media_type):
    answer = enhance(server, noise_png(20, 20), format=format)
    assert answer.headers["Content-Type"] == media_type
    assert Image.open(io.BytesIO(answer.content)).format.lower() == format


def test_quality_applies_to_lossy_formats(server, noise_png):
    sizes = [
        len(enhance(server, noise_png(60, 60), format="jpeg", quality=quality).content)
        for quality in (10, 60, 95)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 < sizes[2]


def test_default_format_is_the_inputs_or_png(server):
    image = Image.fromarray(np.zeros((9, 9, 3), np.uint8))
    for format, expected in (
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/png"),
        ("TIFF", "image/tiff"),
        ("AVIF", "image/avif"),
        ("BMP", "image/png"),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format)
        assert enhance(server, buffer.getvalue()).headers["Content-Type"] == expected


def test_form_works_like_a_body_and_the_query_takes_precedence(server, noise_png):
    data = noise_png(20, 20)
    answer = server.client.post(
        "/v1/enhance",
        params={"format": "png"},
        files={"file": ("kätzchen.jpg", data)},
        data={"model": "compact_x2", "format": "jpeg"},
    )
    assert np.array_equal(pixels(answer), pixels(enhance(server, data, model="compact_x2")))
    assert answer.headers["Content-Disposition"].endswith("filename*=UTF-8''k%C3%A4tzchen.png")


def test_bad_form_field_is_refused_without_echoing_it(server, noise_png):
    answer = server.client.post(
        "/v1/enhance", files={"file": ("a.png", noise_png(8, 8))}, data={"quality": "<script>"}
    )
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/bad-options"
    assert "quality" in answer.json()["detail"]
    assert "<script>" not in answer.text


def test_grey_stays_grey_and_alpha_is_enlarged(server):
    samples = np.random.default_rng(1).integers(0, 256, (30, 40), np.uint8)
    grey = Picture(rgb_hwc=np.repeat(samples[..., None], 3, axis=2), grey=True)
    answer = decode(enhance(server, encode(grey, "png"), scale=2).content)
    assert answer.grey
    assert np.array_equal(answer.rgb_hwc[..., 0], samples.repeat(2, 0).repeat(2, 1))
    colour = Picture(rgb_hwc=grey.rgb_hwc, alpha_hw=np.full((30, 40), 77, np.uint8))
    answer = decode(enhance(server, encode(colour, "png"), scale=2).content)
    assert answer.alpha_hw.shape == (60, 80)
    assert (answer.alpha_hw == 77).all()


def test_sixteen_bits_stay_sixteen(server, repeated):
    deep = np.random.default_rng(2).integers(0, 65536, (20, 30, 3), np.uint16)
    answer = decode(enhance(server, encode(Picture(rgb_hwc=deep), "png"), scale=2).content)
    assert answer.bit_depth == 16
    assert np.abs(answer.rgb_hwc.astype(int) - repeated(deep)).max() <= 1


def test_transparent_picture_is_not_flattened_into_jpeg(server):
    clear = Picture(rgb_hwc=np.zeros((8, 8, 3), np.uint8), alpha_hw=np.zeros((8, 8), np.uint8))
    answer = enhance(server, encode(clear, "png"), format="jpeg")
    assert answer.status_code == 406
    assert answer.json()["type"] == "/problems/format-cannot-hold"


def test_concurrent_pictures_equal_pictures_enhanced_alone(server, noise_png):
    """Different sizes and models at once, each compared with a run outside the server."""
    requests = [
        (noise_png(20 + 7 * n, 90 - 5 * n, seed=n), f"compact_x{2 + 2 * (n % 2)}")
        for n in range(12)
    ]
    with ThreadPoolExecutor(12) as clients:
        answers = list(
            clients.map(lambda request: enhance(server, request[0], model=request[1]), requests)
        )
    for (data, model), answer in zip(requests, answers, strict=True):
        bundle = server.services.pictures.models.champions[model].model.bundle
        solo = Upscaler(bundle, load_backend(bundle, backend="torch", device="cpu"))
        assert np.array_equal(pixels(answer), solo.upscale(decode(data)).rgb_hwc)


def test_tiles_of_different_requests_share_batches(
    picture_server, models_folder, numpy_backends, noise_png
):
    server = picture_server(
        models_folder,
        load_backend=numpy_backends,
        batch={"max_tiles": 64, "max_wait_seconds": 0.005},
    )
    backend = numpy_backends.made[0]
    backend.gate.clear()
    with ThreadPoolExecutor(8) as clients:
        waiting = [clients.submit(enhance, server, noise_png(20, 20))]
        server.wait_for(backend.held.is_set)
        waiting += [clients.submit(enhance, server, noise_png(20, 20)) for _ in range(7)]
        server.wait_for(lambda: sum(server.services.scheduler.queued_tiles().values()) == 7)
        backend.gate.set()
        for answer in waiting:
            assert answer.result().status_code == 200
    assert [shape[0] for shape in backend.batches[-2:]] == [1, 7]
    assert backend.threads == {"engine-0"}


def test_huge_picture_has_only_a_few_tiles_in_the_queue(
    picture_server, models_folder, numpy_backends, noise_png, repeated
):
    server = picture_server(
        models_folder, load_backend=numpy_backends, batch={"max_tiles": 2, "max_wait_seconds": 0}
    )
    backend = numpy_backends.made[0]
    backend.gate.clear()
    data = noise_png(300, 400)
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(enhance, server, data)
        server.wait_for(lambda: sum(server.services.scheduler.queued_tiles().values()) >= 2)
        assert sum(server.services.scheduler.queued_tiles().values()) <= 4
        backend.gate.set()
        assert np.array_equal(pixels(waiting.result()), repeated(decode(data).rgb_hwc))


def test_declared_body_over_the_limit_is_refused_unread(
    picture_server, models_folder, numpy_backends
):
    server = picture_server(models_folder, load_backend=numpy_backends, limits={"max_bytes": 1000})
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(
            b"POST /v1/enhance HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_chunked_body_over_the_limit_is_refused_while_it_arrives(
    picture_server, models_folder, numpy_backends
):
    server = picture_server(models_folder, load_backend=numpy_backends, limits={"max_bytes": 1000})
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(
            b"POST /v1/enhance HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        raw.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        answer = raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"/problems/too-many-bytes" in answer


def test_slow_body_times_out(picture_server, models_folder, numpy_backends):
    server = picture_server(
        models_folder, load_backend=numpy_backends, limits={"body_seconds": 0.1}
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(
            b"POST /v1/enhance HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc"
        )
        answer = raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"/problems/slow-body" in answer
    server.wait_for(lambda: server.services.pictures.admission.in_flight == 0)
