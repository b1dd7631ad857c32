import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.enhance.costs import CostModel
from serving.reporter import Reporter, device_memory
from serving.telemetry import metrics_table as module
from serving.telemetry.metrics import Metrics
from serving.telemetry.metrics_table import TABLE

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_documentation_is_up_to_date():
    assert DOCS.read_text() == module.markdown() + "\n", (
        "run: python -m serving.telemetry.metrics_table > docs/metrics.md"
    )


def test_server_exposes_exactly_the_metrics_of_the_table(
    picture_server, models_folder, numpy_backends, noise_png
):
    server = picture_server(models_folder, load_backend=numpy_backends, drift={"minimum": 1})
    assert server.client.post("/v1/enhance", content=noise_png(20, 20)).status_code == 200
    text = server.client.get("/metrics").text
    declared = {
        line.split()[2]: line.split()[3]
        for line in text.splitlines()
        if line.startswith("# TYPE sharpline_")
    }
    assert declared == {spec.name: spec.kind for spec in TABLE}


def test_answered_picture_is_counted(picture_server, models_folder, numpy_backends, noise_png):
    full_batches = {"max_tiles": 2, "max_wait_seconds": 60}
    server = picture_server(models_folder, load_backend=numpy_backends, batch=full_batches)
    server.client.post("/v1/enhance", content=noise_png(20, 30))
    server.client.post("/v1/enhance", content=b"no picture")
    bundle = server.client.get("/v1/models").json()["models"][0]["bundle"]
    value = server.services.metrics.registry.get_sample_value
    enhance = {"route": "/v1/enhance", "model": "compact_x2"}
    assert value("sharpline_requests_total", {**enhance, "status": "200"}) == 1
    assert value("sharpline_requests_total", {**enhance, "model": "", "status": "415"}) == 1
    assert value("sharpline_problems_total", {"problem": "not-a-picture"}) == 1
    assert value("sharpline_request_duration_seconds_count", enhance) == 1
    assert value("sharpline_pixels_total", {"direction": "in"}) == 600
    assert value("sharpline_pixels_total", {"direction": "out"}) == 2400
    stages = {
        stage: value("sharpline_stage_duration_seconds_count", {"stage": stage})
        for stage in ("read", "decode", "network", "check", "encode")
    }
    assert stages == dict.fromkeys(stages, 1)
    model = {"model": "compact_x2"}
    # Two tiles of 32 x 32, because the picture and a halo do not fit into one, and a full batch.
    assert value("sharpline_batch_duration_seconds_count", model) == 1
    assert value("sharpline_batch_fill_ratio_count", model) == 1
    assert value("sharpline_batch_fill_ratio_sum", model) == 1
    assert value("sharpline_tile_waste_ratio_sum", model) == pytest.approx(2 * 32 * 32 / 600)
    assert value("sharpline_queue_tiles", model) == 0
    assert value("sharpline_pictures_in_flight") == 0
    assert value("sharpline_model_info", {**model, "version": "local", "bundle": bundle}) == 1
    assert value("process_resident_memory_bytes") > 0


def test_unknown_paths_share_one_label(picture_server, models_folder, numpy_backends):
    server = picture_server(models_folder, load_backend=numpy_backends)
    for address in ("/nothing", "/v1/else", "/wp-login.php"):
        server.client.get(address)
    labels = {"route": "other", "status": "404", "model": ""}
    value = server.services.metrics.registry.get_sample_value
    assert value("sharpline_requests_total", labels) == 3


def test_counters_of_a_desired_model_start_at_zero():
    metrics = Metrics()
    Reporter(metrics, CostModel()).model_desired("m")
    assert metrics.registry.get_sample_value("sharpline_model_refusals_total", {"model": "m"}) == 0


def test_memory_of_every_gpu_is_reported_and_none_without_one(monkeypatch):
    cuda = SimpleNamespace(
        is_initialized=lambda: True, device_count=lambda: 2, mem_get_info=lambda number: (30, 100)
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert device_memory() == {
        ("cuda:0", "total"): 100,
        ("cuda:0", "used"): 70,
        ("cuda:1", "total"): 100,
        ("cuda:1", "used"): 70,
    }
    cuda.is_initialized = lambda: False
    assert device_memory() == {}
    monkeypatch.delitem(sys.modules, "torch")
    assert device_memory() == {}
