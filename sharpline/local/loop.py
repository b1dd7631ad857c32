"""Follows the loop through Airflow: from the run that was started to every run that came of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sharpline.local.airflow_api import AirflowApi, AssetEvent, NotYetKnown, Run, Task
from superres.errors import SharplineError

POLL_SECONDS = 1.0
NEXT_RUN_SECONDS = 90.0
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
class Loop:
    """The runs of one turn of the loop, in the order in which they began."""

    runs: dict[str, Run] = field(default_factory=dict)  # by run id
    tasks: dict[str, list[Task]] = field(default_factory=dict)
    events: dict[str, list[AssetEvent]] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return all(run.finished for run in self.runs.values()) and not self.unanswered

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
) -> Loop:
    """Watch until every run that came of `first` has ended, telling each change of a task.

    `check` is called at each look and may raise (a service that died). Raises LoopStuck where an
    announcement starts no run within NEXT_RUN_SECONDS.
    """
    loop = Loop(runs={first.run_id: first})
    progress = time.monotonic()
    while not loop.finished:
        check()
        if _look(api, loop, tell):
            progress = time.monotonic()
        if loop.unanswered and _all_ended(loop) and time.monotonic() - progress > NEXT_RUN_SECONDS:
            uris = ", ".join(sorted({event.uri for event in loop.unanswered}))
            raise LoopStuck(
                f"{uris} was announced and no run picked it up; see the scheduler's "
                "log, and whether the DAGs are paused"
            )
        if not loop.finished:
            time.sleep(POLL_SECONDS)
    return loop


def _all_ended(loop: Loop) -> bool:
    return all(run.finished for run in loop.runs.values())


def _look(api: AirflowApi, loop: Loop, tell: Tell) -> bool:
    changed = False
    for before in list(loop.runs.values()):
        if before.finished and all(event.started for event in loop.events[before.run_id]):
            continue
        run = api.run(before.dag_id, before.run_id)
        tasks = api.tasks(run)
        try:
            events = api.events_of(run)
        except NotYetKnown:
            continue
        changed |= _tell_changes(loop.tasks.get(run.run_id, []), tasks, tell)
        loop.runs[run.run_id], loop.tasks[run.run_id] = run, tasks
        loop.events[run.run_id] = events
        for dag_id, run_id in (started for event in events for started in event.started):
            if run_id not in loop.runs:
                loop.runs[run_id] = api.run(dag_id, run_id)
                loop.events[run_id] = []
                changed = True
    return changed


def _tell_changes(before: list[Task], now: list[Task], tell: Tell) -> bool:
    known = {(task.task_id, task.map_index): task.state for task in before}
    changes = [task for task in now if task.state != known.get((task.task_id, task.map_index))]
    for task in changes:
        if task.state in SHOWN:
            took = f" in {task.seconds:.0f} s" if task.state == "success" and task.seconds else ""
            tell(f"{task.dag_id}: {task.name} {SHOWN[task.state]}{took}")
    return bool(changes)
