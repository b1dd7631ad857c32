import shutil
import threading

import pytest

from superres.common.files import write_json


def test_server_without_models_is_live_and_started_but_not_ready(
    picture_server, tmp_path, noise_png
):
    server = picture_server(tmp_path, until="/startupz")
    assert server.client.get("/livez").json()["status"] == "ok"
    not_ready = server.client.get("/readyz")
    assert not_ready.status_code == 503
    assert not_ready.json()["type"] == "/problems/not-ready"
    assert str(tmp_path) in not_ready.json()["detail"]
    refused = server.client.post("/v1/enhance", content=noise_png(8, 8))
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert server.client.get("/v1/models").json() == {"models": []}


def test_model_that_arrives_later_makes_it_ready(picture_server, tmp_path, tiny_bundle, noise_png):
    server = picture_server(tmp_path, until="/startupz")
    bundle = tiny_bundle()
    shutil.copytree(bundle.root, tmp_path / "by-sha" / bundle.id)
    write_json(tmp_path / "index.json", {"compact_x2": {"champion": bundle.id}})
    server.wait_for(lambda: server.client.get("/readyz").status_code == 200)
    assert server.client.post("/v1/enhance", content=noise_png(8, 8)).status_code == 200


def test_readiness_lists_served_and_refused_models(picture_server, models_folder):
    shutil.copytree(models_folder / "compact_x2", models_folder / "broken_x4")
    (models_folder / "broken_x4" / "bundle.json").write_text("{}")
    server = picture_server(models_folder)
    server.wait_for(lambda: server.client.get("/startupz").status_code == 200)
    ready = server.client.get("/readyz").json()
    assert ready["models"] == ["compact_x2"]
    assert "not a description" in ready["problems"]["broken_x4"]
    value = server.services.metrics.registry.get_sample_value
    assert value("sharpline_model_refusals_total", {"model": "broken_x4"}) == 1


def test_loading_model_gets_503_while_others_serve(
    picture_server, models_folder, tiny_bundle, numpy_backends, noise_png
):
    shutil.copytree(tiny_bundle(name="slow_x4", scale=4).root, models_folder / "slow_x4")
    resume = threading.Event()

    def load(bundle, device):
        if bundle.info.name == "slow_x4":
            resume.wait(timeout=60)
        return numpy_backends(bundle, device)

    server = picture_server(models_folder, load_backend=load, models={"default": "compact_x2"})
    assert server.client.get("/startupz").status_code == 503
    for options, status in (
        ({}, 200),
        ({"scale": 2}, 200),
        ({"model": "slow_x4"}, 503),
        ({"scale": 4}, 503),
        ({"model": "nothing"}, 404),
    ):
        answer = server.client.post("/v1/enhance", params=options, content=noise_png(8, 8))
        assert answer.status_code == status, options
    resume.set()
    server.wait_for(lambda: server.client.get("/startupz").status_code == 200)
    answer = server.client.post("/v1/enhance", params={"scale": 4}, content=noise_png(8, 8))
    assert answer.headers["Sharpline-Model"] == "slow_x4"


def test_models_are_listed_with_their_metadata(server):
    models = server.client.get("/v1/models").json()["models"]
    assert [(model["name"], model["scale"], model["default"]) for model in models] == [
        ("compact_x2", 2, False),
        ("compact_x4", 4, True),
    ]
    model_version = server.services.pictures.models.champions["compact_x2"]
    assert models[0]["bundle"] == model_version.model.bundle.id
    assert models[0]["licence"]["commercial_use"] == "yes"
    assert (models[0]["backend"], models[0]["device"]) == ("torch", "cpu")


@pytest.mark.parametrize("address", ["/livez", "/readyz", "/startupz"])
def test_health_of_a_working_server_is_ok(server, address):
    server.wait_for(lambda: server.client.get(address).status_code == 200)
    assert server.client.get(address).json()["status"] == "ok"
