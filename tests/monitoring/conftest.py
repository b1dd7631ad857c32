"""A real Prometheus and Alertmanager on free ports, with the project's files, sped up."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from sharpline.local import monitoring
from sharpline.local.processes import Service, Services, choose_ports, local_url
from superres.analysis.degradation_features import SUMMARY, measure
from superres.common.files import write_json
from superres.image.codecs import Picture, encode
from superres.image.resize import imresize
from superres.model.bundle import Bundle

Array = NDArray[Any]


class Prometheus:
    """A client of one running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        body = httpx.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return self.get("query", query=expression)["result"]

    def firing(self, name: str) -> list[dict[str, Any]]:
        return [
            alert
            for alert in self.get("alerts")["alerts"]
            if alert["labels"]["alertname"] == name and alert["state"] == "firing"
        ]


CHAMPION, WRONG = "compact_x2", "wrong_x2"


def png(rgb_hwc: Array) -> bytes:
    return encode(Picture(rgb_hwc=rgb_hwc.clip(0, 255).astype(np.uint8)), "png")


class Traffic:
    """Requests to a real server.

    `CHAMPION` was trained on `calm` pictures and has a shadow; `WRONG` answers dark pictures 50
    levels too bright, which the server refuses, and white ones correctly.
    """

    def __init__(self, client: httpx.Client, calm_hwc: Array) -> None:
        self._client = client
        noise = np.random.default_rng(1).normal(0, 12, calm_hwc.shape)
        self.calm, self.noisy = png(calm_hwc), png(calm_hwc + noise)
        self._dark, partly_dark_hwc = png(np.full((30, 30, 3), 90)), np.full((200, 60, 3), 255)
        partly_dark_hwc[150:] = 90
        self._partly_dark = png(partly_dark_hwc)

    def enhance(self, picture: bytes) -> None:
        """An answered request."""
        assert self._client.post("/v1/enhance", content=picture).status_code == 200

    def refuse(self) -> None:
        """A request without a picture."""
        assert self._client.post("/v1/enhance", content=b"no picture").status_code == 415

    def fail(self) -> None:
        """A request that fails with 500."""
        asked = {"model": WRONG}
        answer = self._client.post("/v1/enhance", params=asked, content=self._dark)
        assert answer.status_code == 500

    def abort(self) -> None:
        """A request whose answer is aborted after its first byte."""
        with pytest.raises(httpx.RemoteProtocolError):
            self._client.post("/v1/enhance", params={"model": WRONG}, content=self._partly_dark)

    def submit_job(self) -> None:
        assert self._client.post("/v1/jobs", content=self.calm).status_code == 202


@pytest.fixture(scope="module")
def calm_hwc() -> Array:
    """A smooth picture."""
    small = np.random.default_rng(0).integers(60, 196, (8, 8, 3)).astype(np.float64)
    return imresize(small, size=(64, 64))


@pytest.fixture(scope="module")
def picture_server(
    module_picture_server: Callable[..., Any],
    tiny_bundle: Callable[..., Bundle],
    calm_hwc: Array,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A server of these two models and of a shadow."""
    values = measure(calm_hwc.clip(0, 255).astype(np.uint8))
    statistics = {name: dict.fromkeys(SUMMARY, value) for name, value in values.items()}
    reference = {name: {**each, "std": 1.0} for name, each in statistics.items()}
    champion = tiny_bundle(name=CHAMPION, reference=reference)
    shadow = tiny_bundle(name=CHAMPION, error_levels=3)
    wrong = tiny_bundle(name=WRONG, error_levels=50)
    folder = tmp_path_factory.mktemp("served") / "models"
    for bundle in (champion, shadow, wrong):
        shutil.copytree(bundle.root, folder / "by-sha" / bundle.id)
    routes = {CHAMPION: (champion, shadow), WRONG: (wrong, None)}
    index = {
        name: {
            "champion": served.id,
            "previous": None,
            "canary": None,
            "canary_percent": 0,
            "shadow": None if compared is None else compared.id,
            "versions": {each.id: str(n) for n, each in enumerate((served, compared), 1) if each},
        }
        for name, (served, compared) in routes.items()
    }
    write_json(folder / "index.json", index)
    server = module_picture_server(
        folder,
        models={"default": CHAMPION},
        batch={"max_tiles": 1, "max_wait_seconds": 0},
        drift={"window": 4, "minimum": 2},
    )
    models = server.services.pictures.models
    server.wait_for(lambda: len(models.champions) == 2 and models.routes[CHAMPION].shadow)
    return server


@pytest.fixture(scope="module")
def traffic(picture_server: Any, calm_hwc: Array) -> Traffic:
    return Traffic(picture_server.client, calm_hwc)


@pytest.fixture(scope="module")
def notified(
    module_serve_http: Callable[[type[BaseHTTPRequestHandler]], str],
) -> tuple[str, list[dict[str, Any]]]:
    """A webhook receiver of alerts: its URL, and the notifications received."""
    notifications: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            notifications.append(json.loads(body) | {"path": self.path})
            self.send_response(200)
            self.end_headers()

    return module_serve_http(Webhook), notifications


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture(scope="module")
def files(
    notified: tuple[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the project's files with short intervals; the receivers post to the webhook."""
    folder = tmp_path_factory.mktemp("files") / "monitoring"
    shutil.copytree(monitoring.SHIPPED, folder)
    _replace(folder / "prometheus/prometheus.yml", r"_interval: \w+", "_interval: 250ms")
    _replace(folder / "prometheus/alerts.yml", r"for: \w+", "for: 500ms")
    path = folder / "alertmanager/alertmanager.yml"
    _replace(path, r"group_wait: \w+", "group_wait: 500ms")
    config = yaml.safe_load(path.read_text())
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"{notified[0]}/{receiver['name']}"}]
    path.write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def alertmanager(services: Services, files: Path) -> tuple[Service, int]:
    """Alertmanager as the local stack runs it, with those files; it may not be ready yet."""
    _require("alertmanager", "prometheus-alertmanager")
    [port] = choose_ports(0)
    running = monitoring.start_alertmanager(
        services, services.logs / "alertmanager", port, environment=os.environ, files=files
    )
    return running, port


@pytest.fixture(scope="module")
def prometheus(
    services: Services, files: Path, alertmanager: tuple[Service, int], picture_server: Any
) -> Prometheus:
    """Prometheus as the local stack runs it, with those files."""
    _require("prometheus", "prometheus")
    [port] = choose_ports(0)
    running = monitoring.start_prometheus(
        services,
        services.logs / "prometheus",
        port,
        scrape_port=picture_server.port,
        alertmanager_port=alertmanager[1],
        environment=os.environ,
        files=files,
    )
    for service, its_port in (alertmanager, (running, port)):
        _await_up(service, local_url(its_port))
    return Prometheus(local_url(port))


def _await_up(service: Service, url: str) -> None:
    service.await_ready(lambda: monitoring.is_up(url), timeout_seconds=60)


def _replace(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count > 0
    path.write_text(text)


def _require(program: str, package: str) -> None:
    if monitoring.program_path(program) is None:
        pytest.skip(f"needs {program}: apt-get install {package}")
