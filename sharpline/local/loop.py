"""Follows one cycle of the loop in Airflow: from the first run to every run that it triggers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sharpline.local.airflow_api import (
    AirflowApi,
    AirflowRefused,
    AirflowUnavailable,
    AssetEvent,
    Run,
    StartedRunQueued,
    Task,
)
from sharpline.local.progress import INTERVAL_SECONDS, Log
from superres.common.errors import SharplineError

POLL_SECONDS = 1.0
NEXT_RUN_SECONDS = 120.0
QUEUED_SECONDS = 3600.0
UNAVAILABLE_SECONDS = 180.0
STATE_TEXTS = {
    "running": "running",
    "success": "done",
    "failed": "FAILED",
    "upstream_failed": "not run, because an upstream step failed",
    "skipped": "skipped",
    "up_for_retry": "failed, will be retried",
}


class LoopStuck(SharplineError):
    """An asset event triggered no run in time."""


@dataclass(slots=True, kw_only=True)
class LoopProgress:
    """The runs of one cycle of the loop, in start order; all fields are keyed by run id."""

    runs: dict[str, Run] = field(default_factory=dict)
    tasks: dict[str, list[Task]] = field(default_factory=dict)
    events: dict[str, list[AssetEvent]] = field(default_factory=dict)
    queued_downstream: set[str] = field(default_factory=set)  # runs that triggered a queued run

    @property
    def finished(self) -> bool:
        if not self.tasks.keys() >= self.runs.keys() or not self.all_finished:
            return False
        return not self.unconsumed_events and not self.queued_downstream

    @property
    def all_finished(self) -> bool:
        """Whether every known run has finished; a triggered run may still have to start."""
        return all(run.finished for run in self.runs.values())

    @property
    def unconsumed_events(self) -> list[AssetEvent]:
        """Asset events that have not triggered a run yet."""
        return [event for events in self.events.values() for event in events if not event.started]

    def tasks_of(self, dag_id: str) -> list[Task]:
        """The tasks of every run of one DAG."""
        return [task for tasks in self.tasks.values() for task in tasks if task.dag_id == dag_id]

    @property
    def failed(self) -> list[Task]:
        return [task for tasks in self.tasks.values() for task in tasks if task.state == "failed"]


TaskKey = tuple[str, str, int]


@dataclass(slots=True, kw_only=True)
class _Report:
    """When a running task began and was last reported, and the lines that it had written then."""

    began: float
    reported: float
    lines: int = 0


def follow(
    api: AirflowApi, first: Run, *, log: Log, check: Callable[[], None] = lambda: None
) -> LoopProgress:
    """Poll until `first` and every run that it triggers has finished.

    Logs each task's state change, and every few seconds the progress of each running task. `check`
    is called at each poll and may raise (a service that died). Raises LoopStuck where an asset
    event triggers no run in time, AirflowUnavailable where the API does not respond for long.
    """
    loop = LoopProgress(runs={first.run_id: first})
    running = RunningTasks(api, log)
    last_response = last_change = time.monotonic()
    while not loop.finished:
        check()
        try:
            last_change = time.monotonic() if _poll(api, loop, log) else last_change
            running.report(loop)
            last_response = time.monotonic()
        except AirflowUnavailable:
            if time.monotonic() - last_response > UNAVAILABLE_SECONDS:
                raise
        _require_progress(loop, time.monotonic() - last_change)
        if not loop.finished:
            time.sleep(POLL_SECONDS)
    return loop


def _require_progress(loop: LoopProgress, idle_seconds: float) -> None:
    timeout_seconds = QUEUED_SECONDS if loop.queued_downstream else NEXT_RUN_SECONDS
    if loop.all_finished and idle_seconds > timeout_seconds:
        uris = ", ".join(sorted({event.uri for event in loop.unconsumed_events}))
        raise LoopStuck(
            f"no run was triggered by {uris or 'the asset events'}; see airflow-scheduler.log, and "
            "in Airflow whether a DAG is paused"
        )


def _poll(api: AirflowApi, loop: LoopProgress, log: Log) -> bool:
    """Update `loop`; return whether anything changed."""
    changed = False
    for run_id, before in list(loop.runs.items()):
        if _is_settled(loop, before):
            continue
        run, tasks = api.run(before.dag_id, run_id), api.tasks(before)
        changed |= _log_changes(loop.tasks.get(run_id, []), tasks, log)
        changed |= _update_events(api, loop, run)
        loop.runs[run_id], loop.tasks[run_id] = run, tasks
    return changed


def _is_settled(loop: LoopProgress, run: Run) -> bool:
    if not run.finished or run.run_id not in loop.tasks or run.run_id in loop.queued_downstream:
        return False
    return all(event.started for event in loop.events[run.run_id])


def _update_events(api: AirflowApi, loop: LoopProgress, run: Run) -> bool:
    """Update the events of a run and the runs that they triggered; return whether a run is new."""
    try:
        events = api.asset_events(run)
    except StartedRunQueued:
        loop.queued_downstream.add(run.run_id)
        return False
    loop.queued_downstream.discard(run.run_id)
    loop.events[run.run_id] = events
    new = {run_id: dag_id for event in events for dag_id, run_id in event.started}
    new = {run_id: dag_id for run_id, dag_id in new.items() if run_id not in loop.runs}
    for run_id, dag_id in new.items():
        loop.runs[run_id] = api.run(dag_id, run_id)
    return bool(new)


class RunningTasks:
    """Logs the newest line of each running task's command, or else how long it has run."""

    def __init__(self, api: AirflowApi, log: Log) -> None:
        self._api, self._log = api, log
        self._reports: dict[TaskKey, _Report] = {}

    def report(self, loop: LoopProgress) -> None:
        """Report every task that has run for INTERVAL_SECONDS since its start or last report."""
        tasks = {_key(task): task for tasks in loop.tasks.values() for task in tasks}
        running = {key: task for key, task in tasks.items() if task.state == "running"}
        now = time.monotonic()
        self._reports = {
            key: self._reports.get(key) or _Report(began=now, reported=now) for key in running
        }
        for key, task in running.items():
            report = self._reports[key]
            if now - report.reported >= INTERVAL_SECONDS:
                report.reported = now
                self._report(task, report, now)

    def _report(self, task: Task, report: _Report, now: float) -> None:
        try:
            lines = self._api.command_lines(task)
        except AirflowRefused:  # a line of progress is not worth the cycle
            lines = []
        if len(lines) > report.lines:
            report.lines = len(lines)
            text = lines[-1].removeprefix(f"{task.map_name}:").strip()
        else:
            text = f"running for {now - report.began:.0f} s"
        self._log(f"{task.dag_id}: {task.name}: {text}")


def _key(task: Task) -> TaskKey:
    return task.run_id, task.task_id, task.map_index


def _named_state(task: Task) -> str | None:
    """The task's state, None for a start that cannot be named yet: mapped tasks get names later."""
    return None if task.state == "running" and task.is_unnamed else task.state


def _log_changes(before: list[Task], now: list[Task], log: Log) -> bool:
    states = {_key(task): _named_state(task) for task in before}
    changes = [task for task in now if _named_state(task) != states.get(_key(task))]
    for task in changes:
        state = _named_state(task)
        if state in STATE_TEXTS:
            took = f" in {task.seconds:.0f} s" if task.state == "success" and task.seconds else ""
            log(f"{task.dag_id}: {task.name} {STATE_TEXTS[state]}{took}")
    return bool(changes)
