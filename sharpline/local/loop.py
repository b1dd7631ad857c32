"""Follows the loop through Airflow: from the run that was started to every run that came of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sharpline.local.airflow_api import (
    AirflowApi,
    AirflowUnavailable,
    AssetEvent,
    Run,
    StartedRunQueued,
    Task,
)
from superres.common.errors import SharplineError

POLL_SECONDS = 1.0
NEXT_RUN_SECONDS = 120.0
QUEUED_SECONDS = 3600.0
AWAY_SECONDS = 180.0
SHOWN = {
    "running": "running",
    "success": "done",
    "failed": "FAILED",
    "upstream_failed": "not run, because a step before it failed",
    "skipped": "skipped",
    "up_for_retry": "failed, will be tried again",
}

Tell = Callable[[str], None]


class LoopStuck(SharplineError):
    """What a run announced started nothing."""


@dataclass(slots=True, kw_only=True)
class LoopProgress:
    """The runs of one turn of the loop, in the order in which they began."""

    runs: dict[str, Run] = field(default_factory=dict)  # by run id, as the rest
    tasks: dict[str, list[Task]] = field(default_factory=dict)
    events: dict[str, list[AssetEvent]] = field(default_factory=dict)
    queued_behind: set[str] = field(default_factory=set)  # runs whose followers wait in a queue

    @property
    def finished(self) -> bool:
        known = self.tasks.keys() >= self.runs.keys()
        return known and self.ended and not self.unanswered and not self.queued_behind

    @property
    def ended(self) -> bool:
        """Whether no known run is at work; one that was announced may still have to begin."""
        return all(run.finished for run in self.runs.values())

    @property
    def unanswered(self) -> list[AssetEvent]:
        """Announcements that no run has picked up yet."""
        return [event for events in self.events.values() for event in events if not event.started]

    def of(self, dag_id: str) -> list[Task]:
        """The tasks of every run of one DAG."""
        return [task for tasks in self.tasks.values() for task in tasks if task.dag_id == dag_id]

    @property
    def failed(self) -> list[Task]:
        return [task for tasks in self.tasks.values() for task in tasks if task.state == "failed"]


def follow(
    api: AirflowApi, first: Run, *, tell: Tell, check: Callable[[], None] = lambda: None
) -> LoopProgress:
    """Watch until every run that came of `first` has ended, telling each change of a task.

    `check` is called at each look and may raise (a service that died). Raises LoopStuck where an
    announcement starts no run in time, AirflowAway where the API does not answer for long.
    """
    loop = LoopProgress(runs={first.run_id: first})
    answered = changed = time.monotonic()
    while not loop.finished:
        check()
        try:
            changed = time.monotonic() if _look(api, loop, tell) else changed
            answered = time.monotonic()
        except AirflowUnavailable:
            if time.monotonic() - answered > AWAY_SECONDS:
                raise
        _require_progress(loop, time.monotonic() - changed)
        if not loop.finished:
            time.sleep(POLL_SECONDS)
    return loop


def _require_progress(loop: LoopProgress, idle_seconds: float) -> None:
    patience = QUEUED_SECONDS if loop.queued_behind else NEXT_RUN_SECONDS
    if loop.ended and idle_seconds > patience:
        uris = ", ".join(sorted({event.uri for event in loop.unanswered})) or "what was announced"
        raise LoopStuck(
            f"no run picked up {uris}; see the log airflow-scheduler.log, and in Airflow whether "
            "a DAG is paused"
        )


def _look(api: AirflowApi, loop: LoopProgress, tell: Tell) -> bool:
    """Bring `loop` up to date; returns whether anything changed."""
    changed = False
    for run_id, before in list(loop.runs.items()):
        if _is_settled(loop, before):
            continue
        run, tasks = api.run(before.dag_id, run_id), api.tasks(before)
        changed |= _tell_changes(loop.tasks.get(run_id, []), tasks, tell)
        changed |= _learn_events(api, loop, run)
        loop.runs[run_id], loop.tasks[run_id] = run, tasks
    return changed


def _is_settled(loop: LoopProgress, run: Run) -> bool:
    if not run.finished or run.run_id not in loop.tasks or run.run_id in loop.queued_behind:
        return False
    return all(event.started for event in loop.events[run.run_id])


def _learn_events(api: AirflowApi, loop: LoopProgress, run: Run) -> bool:
    """Note what a run announced and the runs that this started; returns whether one is new."""
    try:
        events = api.events_of(run)
    except StartedRunQueued:
        loop.queued_behind.add(run.run_id)
        return False
    loop.queued_behind.discard(run.run_id)
    loop.events[run.run_id] = events
    new = {run_id: dag_id for event in events for dag_id, run_id in event.started}
    new = {run_id: dag_id for run_id, dag_id in new.items() if run_id not in loop.runs}
    for run_id, dag_id in new.items():
        loop.runs[run_id] = api.run(dag_id, run_id)
    return bool(new)


def _tell_changes(before: list[Task], now: list[Task], tell: Tell) -> bool:
    known = {(task.task_id, task.map_index): task.state for task in before}
    changes = [task for task in now if task.state != known.get((task.task_id, task.map_index))]
    for task in changes:
        if task.state in SHOWN:
            took = f" in {task.seconds:.0f} s" if task.state == "success" and task.seconds else ""
            tell(f"{task.dag_id}: {task.name} {SHOWN[task.state]}{took}")
    return bool(changes)
