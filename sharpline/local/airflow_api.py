"""Typed client for the part of Airflow's REST API that the loop needs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from pipelines import steps
from superres.common.errors import SharplineError

TIMEOUT_SECONDS = 30.0
FINISHED = frozenset({"success", "failed"})


class AirflowRefused(SharplineError):
    """Airflow responded with an error."""


class AirflowUnavailable(SharplineError):
    """Airflow does not respond; a retry may succeed."""


class StartedRunQueued(Exception):
    """A run's asset events are unavailable while a run that they triggered is queued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One DAG run."""

    dag_id: str
    run_id: str
    state: str  # queued, running, success, failed

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task instance of a run; a mapped task has one for each index."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int  # -1 where the task is not mapped
    map_name: str | None  # Airflow's rendered_map_index
    state: str | None
    try_number: int
    seconds: float | None

    @property
    def is_unnamed(self) -> bool:
        """Whether this instance of a mapped task has only its index so far.

        Airflow names it by its index, or not at all, until its template is rendered.
        """
        return self.map_index >= 0 and self.map_name in (None, "", str(self.map_index))

    @property
    def name(self) -> str:
        """Display name: `train compact_x4`."""
        instance = self.map_name or (str(self.map_index) if self.map_index >= 0 else "")
        return f"{self.task_id.rsplit('.')[-1]} {instance}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetEvent:
    """An asset event that a run emitted, and the runs that it triggered."""

    uri: str
    extra: Mapping[str, Any]
    started: tuple[tuple[str, str], ...]  # (dag id, run id)


class AirflowApi:
    """A logged-in client; a context manager."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def dag_ids(self) -> set[str]:
        """The DAGs that have been parsed so far."""
        return {dag["dag_id"] for dag in self._get("/dags")["dags"]}

    def import_errors(self) -> list[str]:
        """Errors of DAG files that could not be imported."""
        return [error["stack_trace"] for error in self._get("/importErrors")["import_errors"]]

    def trigger(self, dag_id: str, run_id: str, parameters: Mapping[str, Any]) -> Run:
        """Start a run; idempotent by `run_id`."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(parameters)}
        response = self._send("POST", f"/dags/{dag_id}/dagRuns", json=body)
        if response.status_code == httpx.codes.CONFLICT:
            return self.run(dag_id, run_id)
        return _run(_json(response))

    def run(self, dag_id: str, run_id: str) -> Run:
        """The current state of one run."""
        return _run(self._get(f"/dags/{dag_id}/dagRuns/{run_id}"))

    def unfinished(self) -> list[Run]:
        """Runs of every DAG that are queued or running."""
        params = {"state": ["queued", "running"]}
        return [_run(data) for data in self._get("/dags/~/dagRuns", params)["dag_runs"]]

    def mark_failed(self, run: Run) -> None:
        """Mark a run and its unfinished tasks as failed."""
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}"
        _json(self._send("PATCH", path, json={"state": "failed"}))

    def tasks(self, run: Run) -> list[Task]:
        """The current task instances of a run."""
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances"
        return [_task(data) for data in self._get(path)["task_instances"]]

    def asset_events(self, run: Run) -> list[AssetEvent]:
        """The asset events that a run emitted so far.

        Raises StartedRunQueued while a run that it triggered is queued: Airflow 3.3 then responds
        with 500, because a queued run has no start date.
        """
        params = {"source_dag_id": run.dag_id, "source_run_id": run.run_id}
        response = self._send("GET", "/assets/events", params=params)
        if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            raise StartedRunQueued
        return [_event(data) for data in _json(response)["asset_events"]]

    def result(self, task: Task) -> Any:
        """The return value of a task; None where it returned nothing."""
        path = f"{_task_path(task)}/xcomEntries/return_value"
        response = self._send("GET", path, params={"map_index": task.map_index})
        return None if response.status_code == httpx.codes.NOT_FOUND else _json(response)["value"]

    def log_lines(self, task: Task) -> list[str]:
        """The log of a task's last attempt."""
        return list(_log_lines(self._log_content(task)))

    def command_lines(self, task: Task) -> list[str]:
        """The lines that the task's `sharpline` command has written so far."""
        return [
            str(entry["event"])
            for entry in self._log_content(task)
            if isinstance(entry, dict)
            and entry.get("logger") == steps.logger.name
            and not str(entry["event"]).startswith(steps.RUNNING)
        ]

    def run_url(self, run: Run) -> str:
        """The run's page in Airflow's UI."""
        return f"{self.url}/dags/{run.dag_id}/runs/{run.run_id}"

    def _log_content(self, task: Task) -> list[Any]:
        path = f"{_task_path(task)}/logs/{max(1, task.try_number)}"
        params = {"map_index": task.map_index, "full_content": True}
        return self._get(path, params)["content"]

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return _json(self._send("GET", path, params=params))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._client.request(method, f"/api/v2{path}", **options)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._log_in()
                response = self._client.request(method, f"/api/v2{path}", **options)
        except httpx.TransportError as error:
            raise AirflowUnavailable(f"Airflow at {self.url} does not respond: {error}") from error
        return response

    def _log_in(self) -> None:
        token = _json(self._client.post("/auth/token", json=self._login))["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"


def _json(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise AirflowRefused(
            f"Airflow responded with {response.status_code} to {response.request.method} "
            f"{response.request.url}: {response.text[:500]}"
        )
    return response.json()


def _run(data: Mapping[str, Any]) -> Run:
    return Run(dag_id=data["dag_id"], run_id=data["dag_run_id"], state=data["state"])


def _task(data: Mapping[str, Any]) -> Task:
    return Task(
        dag_id=data["dag_id"],
        run_id=data["dag_run_id"],
        task_id=data["task_id"],
        map_index=data["map_index"],
        map_name=data["rendered_map_index"],
        state=data["state"],
        try_number=data["try_number"],
        seconds=data["duration"],
    )


def _event(data: Mapping[str, Any]) -> AssetEvent:
    started = tuple((run["dag_id"], run["run_id"]) for run in data["created_dagruns"])
    return AssetEvent(uri=data["uri"], extra=data["extra"] or {}, started=started)


def _task_path(task: Task) -> str:
    return f"/dags/{task.dag_id}/dagRuns/{task.run_id}/taskInstances/{task.task_id}"


def _log_lines(content: list[Any]) -> Iterator[str]:
    for entry in content:
        yield from (entry if isinstance(entry, str) else str(entry.get("event", ""))).splitlines()
        for error in (entry.get("error_detail") or []) if isinstance(entry, dict) else []:
            yield from f"{error['exc_type']}: {error['exc_value']}".splitlines()
