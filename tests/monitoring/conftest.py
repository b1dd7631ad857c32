"""A real Prometheus and Alertmanager on free ports, with the project's files, sped up."""

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from serving.telemetry.metrics_table import TABLE
from sharpline.local.processes import choose_ports

MONITORING = Path(__file__).parents[2] / "monitoring"
TIMEOUT_SECONDS = 60.0


def _await_true(what: str, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if value := condition():
                return value
        time.sleep(0.1)
    pytest.fail(f"timed out after {TIMEOUT_SECONDS:.0f} s waiting for {what}")


@pytest.fixture(scope="session")
def await_true() -> Callable[[str, Callable[[], Any]], Any]:
    """Wait until a condition is true and return its value, because a late scrape may make it false
    again. Fails the test on timeout.
    """
    return _await_true


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


class Exporter:
    """Exports every metric of the server's table; the tests set their values."""

    def __init__(self) -> None:
        kinds = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._metrics = {
            metric.name: kinds[metric.kind](
                metric.name,
                metric.help,
                metric.labels,
                registry=self.registry,
                **({"buckets": metric.buckets} if metric.buckets else {}),
            )
            for metric in TABLE
        }

    def __call__(self, name: str, **labels: str) -> Any:
        metric = self._metrics[name]
        return metric.labels(**labels) if labels else metric


@pytest.fixture(scope="module")
def metric() -> Exporter:
    return Exporter()


@pytest.fixture(scope="module")
def exporter_port(metric: Exporter) -> Iterator[int]:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=metric.registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def notified() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A webhook receiver of alerts: its port, and the notifications received."""
    notifications: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            notifications.append(json.loads(body) | {"path": self.path})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, notifications
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def alertmanager_port(
    notified: tuple[int, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """Alertmanager with the project's routes, its receivers posting to the webhook."""
    binary = _program("prometheus-alertmanager", "alertmanager")
    folder = tmp_path_factory.mktemp("alertmanager")
    config = yaml.safe_load((MONITORING / "alertmanager/alertmanager.yml").read_text())
    for receiver in config["receivers"]:
        address = f"http://127.0.0.1:{notified[0]}/{receiver['name']}"
        receiver["webhook_configs"] = [{"url": address}]
    path = folder / "alertmanager.yml"
    path.write_text(re.sub(r"group_wait: \w+", "group_wait: 1s", yaml.safe_dump(config)))
    [port] = choose_ports(0)
    with _running(
        [
            binary,
            f"--config.file={path}",
            f"--storage.path={folder}",
            "--cluster.listen-address=",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        folder / "log",
        f"http://127.0.0.1:{port}/-/ready",
    ):
        yield port


@pytest.fixture(scope="module")
def prometheus(
    exporter_port: int, alertmanager_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus with a copy of the project's files, with other targets and intervals."""
    binary = _program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus") / "config"
    shutil.copytree(MONITORING / "prometheus", folder)
    for name, port in (("targets", exporter_port), ("alertmanagers", alertmanager_port)):
        (folder / name / "local.yml").write_text(f'- targets: ["127.0.0.1:{port}"]\n')
    _replace(folder / "prometheus.yml", r"_interval: \w+", "_interval: 500ms")
    _replace(folder / "alerts.yml", r"for: \w+", "for: 1s")
    url = f"http://127.0.0.1:{choose_ports(0)[0]}"
    with _running(
        [
            binary,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={url.removeprefix('http://')}",
        ],
        folder / "log",
        f"{url}/-/ready",
    ):
        yield Prometheus(url)


def _replace(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count > 0
    path.write_text(text)


def _program(*names: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs {names[0]}: apt-get install {names[0]}")


@contextlib.contextmanager
def _running(command: list[str], log: Path, ready_url: str) -> Iterator[None]:
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return httpx.get(ready_url).status_code == 200

    try:
        _await_true(ready_url, ready)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)
