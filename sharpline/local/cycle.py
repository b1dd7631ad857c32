"""One cycle of the loop on a running stack: start it, follow it, report failed steps."""

import time
import uuid
from pathlib import Path

import httpx

from sharpline.local.airflow_api import AirflowApi, Task
from sharpline.local.loop import LoopProgress, follow
from sharpline.local.outcome import Outcome, read_outcome
from sharpline.local.progress import Log
from sharpline.local.stack import Stack
from superres.common.errors import SharplineError

SERVED_TIMEOUT_SECONDS = 90.0
POLL_SECONDS = 0.5
LOG_LINES = 25


class LoopFailed(SharplineError):
    """A step of the loop failed; the message has the end of its log."""


def run_cycle(api: AirflowApi, stack: Stack, log: Log) -> tuple[LoopProgress, Outcome]:
    """Trigger `build_pairs` as a manual run and follow until every candidate is decided.

    Unfinished runs of an interrupted cycle are marked as failed first: Airflow would resume them,
    and each DAG has one run at a time. Raises LoopFailed where a step failed before any candidate
    was judged.
    """
    for unfinished in api.unfinished():
        log(f"marking the unfinished run {unfinished.dag_id} {unfinished.run_id} as failed")
        api.mark_failed(unfinished)
    run = api.trigger("build_pairs", f"by-hand-{uuid.uuid4().hex[:8]}", {})
    log(f"started {run.dag_id}: {api.run_url(run)}")
    loop = follow(api, run, log=log, check=stack.services.check)
    if not loop.tasks_of("release"):
        require_success(api, loop)
    return loop, read_outcome(api, loop)


def require_success(api: AirflowApi, loop: LoopProgress) -> None:
    """Raises LoopFailed, naming each failed step with the end of its log."""
    if loop.failed:
        raise LoopFailed("\n\n".join(_explain(api, task) for task in loop.failed))


def await_served(stack: Stack, model: str, bundle_id: str) -> None:
    """Return once the server serves exactly this bundle as `model`.

    Raises SharplineError after SERVED_TIMEOUT_SECONDS.
    """
    deadline = time.monotonic() + SERVED_TIMEOUT_SECONDS
    while _served_bundle(stack.server_url, model) != bundle_id:
        stack.services.check()
        if time.monotonic() > deadline:
            raise SharplineError(
                f"{model} was promoted, but the server did not load it within "
                f"{SERVED_TIMEOUT_SECONDS:.0f} s; see {_log_path(stack, 'follower')} and "
                f"{_log_path(stack, 'server')}"
            )
        time.sleep(POLL_SECONDS)


def _served_bundle(server_url: str, model: str) -> str | None:
    response = httpx.get(f"{server_url}/v1/models", timeout=10)
    response.raise_for_status()
    bundles = {entry["name"]: entry["bundle"] for entry in response.json()["models"]}
    return bundles.get(model)


def _log_path(stack: Stack, name: str) -> Path:
    return stack.services.logs / f"{name}.log"


def _explain(api: AirflowApi, task: Task) -> str:
    end = "\n".join(f"    {line}" for line in api.log_lines(task)[-LOG_LINES:])
    return f"{task.dag_id}: step {task.name} failed; the end of its log:\n{end}"
