"""Fixtures of the local stack's tests: a fake of Airflow's REST API."""

import json
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

USER, PASSWORD, TOKEN = "sharpline", "secret", "token"


class FakeAirflow:
    """Serves runs, tasks and events as Airflow does; `script` advances them at each poll.

    Each request for a run first pops and calls the next callable of the script.
    """

    def __init__(self, serve_http: Callable[[type[BaseHTTPRequestHandler]], str]) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, list[dict[str, Any]]] = {}
        self.events: dict[str, list[dict[str, Any]] | None] = {}  # None: a started run is queued
        self.results: dict[tuple[str, str, int], Any] = {}
        self.logs: dict[str, list[Any]] = {}
        self.script: deque[Callable[[], None]] = deque()
        self.triggered: list[dict[str, Any]] = []
        self.dags = ["build_pairs", "finetune", "release"]
        self.unresponsive = False
        self.url = serve_http(_handler(self))

    def run(self, dag_id: str, run_id: str, state: str) -> None:
        """Set the state of a run."""
        self.runs[run_id] = {"dag_id": dag_id, "dag_run_id": run_id, "state": state}
        self.tasks.setdefault(run_id, [])
        self.events.setdefault(run_id, [])

    def task(
        self,
        run_id: str,
        task_id: str,
        state: str | None,
        index: int = -1,
        name: str | None = None,
    ) -> None:
        """Set the state of a task; a mapped task has an index and, some time later, a name."""
        kept = [t for t in self.tasks[run_id] if (t["task_id"], t["map_index"]) != (task_id, index)]
        task = {
            "dag_id": self.runs[run_id]["dag_id"],
            "dag_run_id": run_id,
            "task_id": task_id,
            "map_index": index,
            "rendered_map_index": name,
            "state": state,
            "try_number": 1,
            "duration": 3.2,
        }
        self.tasks[run_id] = [*kept, task]

    def result(self, run_id: str, task_id: str, value: Any, index: int = -1) -> None:
        """Set a successful task with a return value."""
        self.task(run_id, task_id, "success", index)
        self.results[run_id, task_id, index] = value

    def event(self, run_id: str, uri: str, extra: dict[str, Any], *started: str) -> None:
        """Set the asset event of a run and the runs that it triggered."""
        runs = [{"dag_id": self.runs[name]["dag_id"], "run_id": name} for name in started]
        self.events[run_id] = [{"uri": uri, "extra": extra, "created_dagruns": runs}]

    def respond(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        """Status and body of a GET below /api/v2."""
        segments = path.strip("/").split("/")
        if path == "/dags":
            return 200, {"dags": [{"dag_id": name} for name in self.dags]}
        if path == "/importErrors":
            return 200, {"import_errors": []}
        if path == "/assets/events":
            events = self.events[query["source_run_id"][0]]
            return (500, {}) if events is None else (200, {"asset_events": events})
        if path == "/dags/~/dagRuns":
            return 200, {
                "dag_runs": [r for r in self.runs.values() if r["state"] in query["state"]]
            }
        if len(segments) == 4:
            if self.script:
                self.script.popleft()()
            return 200, self.runs[segments[3]]
        if segments[-1] == "taskInstances":
            return 200, {"task_instances": self.tasks[segments[3]]}
        if "xcomEntries" in segments:
            key = (segments[3], segments[5], int(query["map_index"][0]))
            return (200, {"value": self.results[key]}) if key in self.results else (404, {})
        if "logs" in segments:
            log = self.logs.get(segments[5])
            return (500, {}) if log is None else (200, {"content": log})
        return 404, {"detail": path}


def _handler(fake: FakeAirflow) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if fake.unresponsive:
                self.close_connection = True
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {})
            else:
                path = address.path.removeprefix("/api/v2")
                self._send(*fake.respond(path, parse_qs(address.query)))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/auth/token":
                valid = body == {"username": USER, "password": PASSWORD}
                self._send(201, {"access_token": TOKEN}) if valid else self._send(401, {})
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {})
            else:
                self._trigger(self.path.split("/")[4], body)

        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            run = fake.runs[self.path.split("/")[-1]]
            run["state"] = body["state"]
            self._send(200, run)

        def _trigger(self, dag_id: str, body: dict[str, Any]) -> None:
            if body["dag_run_id"] in self.triggered_ids():
                self._send(409, {})
                return
            fake.triggered.append(body)
            fake.run(dag_id, body["dag_run_id"], "queued")
            self._send(200, fake.runs[body["dag_run_id"]])

        def triggered_ids(self) -> set[str]:
            return {body["dag_run_id"] for body in fake.triggered}

        def _send(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


@pytest.fixture
def airflow(serve_http: Callable[[type[BaseHTTPRequestHandler]], str]) -> FakeAirflow:
    return FakeAirflow(serve_http)
