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
from sharpline.local import monitoring
from sharpline.local.processes import Service, Services, choose_ports, local_url


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
    _replace(folder / "prometheus/prometheus.yml", r"_interval: \w+", "_interval: 500ms")
    _replace(folder / "prometheus/alerts.yml", r"for: \w+", "for: 1s")
    path = folder / "alertmanager/alertmanager.yml"
    _replace(path, r"group_wait: \w+", "group_wait: 1s")
    config = yaml.safe_load(path.read_text())
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"{notified[0]}/{receiver['name']}"}]
    path.write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def alertmanager_port(services: Services, files: Path) -> int:
    """Alertmanager as the local stack runs it, with those files."""
    _require("alertmanager", "prometheus-alertmanager")
    [port] = choose_ports(0)
    running = monitoring.start_alertmanager(
        services, services.logs / "alertmanager", port, environment=os.environ, files=files
    )
    _await_up(running, local_url(port))
    return port


@pytest.fixture(scope="module")
def prometheus(
    services: Services, files: Path, exporter_port: int, alertmanager_port: int
) -> Prometheus:
    """Prometheus as the local stack runs it, with those files."""
    _require("prometheus", "prometheus")
    [port] = choose_ports(0)
    running = monitoring.start_prometheus(
        services,
        services.logs / "prometheus",
        port,
        scrape_port=exporter_port,
        alertmanager_port=alertmanager_port,
        environment=os.environ,
        files=files,
    )
    _await_up(running, local_url(port))
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
