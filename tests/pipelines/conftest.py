"""Fixtures of the pipeline tests: a fake Prometheus and an Airflow home."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest


class FakePrometheus:
    """Serves `alerts` at /api/v1/alerts; responds 503 while `unavailable`.

    While it `cuts`, it closes the connection after half of the response.
    """

    def __init__(self, serve_http: Callable[[type[BaseHTTPRequestHandler]], str]) -> None:
        self.alerts: list[dict[str, Any]] | None = []
        self.unavailable = self.cuts = False
        self.polls = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.polls += 1
                body = json.dumps({"status": "success", "data": {"alerts": fake.alerts}}).encode()
                self.send_response(503 if fake.unavailable else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if fake.cuts else body)

        self.url = serve_http(Handler)


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty AIRFLOW_HOME, set before Airflow is first imported."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("airflow")
        patch.setenv("AIRFLOW_HOME", str(home))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        yield home


@pytest.fixture
def prometheus(serve_http: Callable[[type[BaseHTTPRequestHandler]], str]) -> FakePrometheus:
    return FakePrometheus(serve_http)
