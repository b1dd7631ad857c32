"""The part of Airflow's REST API that the loop needs, typed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from superres.common.errors import SharplineError

TIMEOUT_SECONDS = 30.0
FINISHED = frozenset({"success", "failed"})


class AirflowRefused(SharplineError):
    """Airflow answered a request with an error."""


class AirflowUnavailable(SharplineError):
    """Airflow does not answer at this moment; ask again."""


class StartedRunQueued(Exception):
    """What a run announced cannot be told while a run that this started is queued."""


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
    """One task of a run; a mapped task has one of these for each of its instances."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int  # -1 where it is not mapped
    map_name: str | None  # what this instance is about
    state: str | None
    try_number: int
    seconds: float | None

    @property
    def name(self) -> str:
        """The step for a person: `train compact_x4`."""
        about = self.map_name or (str(self.map_index) if self.map_index >= 0 else "")
        return f"{self.task_id.rsplit('.')[-1]} {about}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetEvent:
    """What a run announced, and the runs that this started."""

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
        """The DAGs that have been read so far."""
        return {dag["dag_id"] for dag in self._get("/dags")["dags"]}

    def import_errors(self) -> list[str]:
        """Why DAG files could not be read."""
        return [error["stack_trace"] for error in self._get("/importErrors")["import_errors"]]

    def trigger(self, dag_id: str, run_id: str, parameters: Mapping[str, Any]) -> Run:
        """Start a run; the same `run_id` again is the same run."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(parameters)}
        answer = self._send("POST", f"/dags/{dag_id}/dagRuns", json=body)
        if answer.status_code == httpx.codes.CONFLICT:
            return self.run(dag_id, run_id)
        return _run(_read(answer))

    def run(self, dag_id: str, run_id: str) -> Run:
        """One run as it stands."""
        return _run(self._get(f"/dags/{dag_id}/dagRuns/{run_id}"))

    def unfinished(self) -> list[Run]:
        """Runs of every DAG that are queued or at work."""
        asked = {"state": ["queued", "running"]}
        return [_run(found) for found in self._get("/dags/~/dagRuns", asked)["dag_runs"]]

    def give_up(self, run: Run) -> None:
        """Mark a run and its unfinished tasks as failed."""
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}"
        _read(self._send("PATCH", path, json={"state": "failed"}))

    def tasks(self, run: Run) -> list[Task]:
        """The tasks of a run as they stand."""
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances"
        return [_task(found) for found in self._get(path)["task_instances"]]

    def events_of(self, run: Run) -> list[AssetEvent]:
        """What a run announced so far.

        Raises StartedRunQueued while a run that it started is queued: Airflow 3.3 then answers
        500, because a queued run has no start date.
        """
        asked = {"source_dag_id": run.dag_id, "source_run_id": run.run_id}
        answer = self._send("GET", "/assets/events", params=asked)
        if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            raise StartedRunQueued
        return [_event(found) for found in _read(answer)["asset_events"]]

    def result(self, task: Task) -> Any:
        """What a task returned; None where it returned nothing."""
        path = f"{_task_path(task)}/xcomEntries/return_value"
        answer = self._send("GET", path, params={"map_index": task.map_index})
        return None if answer.status_code == httpx.codes.NOT_FOUND else _read(answer)["value"]

    def log_lines(self, task: Task) -> list[str]:
        """The log of a task's last attempt."""
        path = f"{_task_path(task)}/logs/{max(1, task.try_number)}"
        asked = {"map_index": task.map_index, "full_content": True}
        return list(_log_lines(self._get(path, asked)["content"]))

    def run_page(self, run: Run) -> str:
        """Where a person sees this run."""
        return f"{self.url}/dags/{run.dag_id}/runs/{run.run_id}"

    def _get(self, path: str, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return _read(self._send("GET", path, params=asked))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, f"/api/v2{path}", **options)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                self._log_in()
                answer = self._client.request(method, f"/api/v2{path}", **options)
        except httpx.TransportError as error:
            raise AirflowUnavailable(f"Airflow at {self.url} does not answer: {error}") from error
        return answer

    def _log_in(self) -> None:
        token = _read(self._client.post("/auth/token", json=self._login))["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"


def _read(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise AirflowRefused(
            f"Airflow answered {answer.status_code} to {answer.request.method} "
            f"{answer.request.url}: {answer.text[:500]}"
        )
    return answer.json()


def _run(found: Mapping[str, Any]) -> Run:
    return Run(dag_id=found["dag_id"], run_id=found["dag_run_id"], state=found["state"])


def _task(found: Mapping[str, Any]) -> Task:
    return Task(
        dag_id=found["dag_id"],
        run_id=found["dag_run_id"],
        task_id=found["task_id"],
        map_index=found["map_index"],
        map_name=found["rendered_map_index"],
        state=found["state"],
        try_number=found["try_number"],
        seconds=found["duration"],
    )


def _event(found: Mapping[str, Any]) -> AssetEvent:
    started = tuple((run["dag_id"], run["run_id"]) for run in found["created_dagruns"])
    return AssetEvent(uri=found["uri"], extra=found["extra"] or {}, started=started)


def _task_path(task: Task) -> str:
    return f"/dags/{task.dag_id}/dagRuns/{task.run_id}/taskInstances/{task.task_id}"


def _log_lines(content: list[Any]) -> Iterator[str]:
    for entry in content:
        yield from (entry if isinstance(entry, str) else str(entry.get("event", ""))).splitlines()
        for error in (entry.get("error_detail") or []) if isinstance(entry, dict) else []:
            yield from f"{error['exc_type']}: {error['exc_value']}".splitlines()
