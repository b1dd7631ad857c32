"""One turn of the loop on a running stack: start it, watch it, say what failed."""

import time
import uuid
from pathlib import Path

import httpx

from sharpline.local.airflow_api import AirflowApi, Task
from sharpline.local.loop import LoopProgress, follow
from sharpline.local.outcome import Outcome, read_outcome
from sharpline.local.stack import Stack, Tell
from superres.common.errors import SharplineError

PICKED_UP_SECONDS = 90.0
LOOK_SECONDS = 0.5
LOG_LINES = 25


class LoopFailed(SharplineError):
    """A step of the loop failed; the message has the end of its log."""


def take(api: AirflowApi, stack: Stack, tell: Tell) -> tuple[LoopProgress, Outcome]:
    """Start `build_pairs` as a person would and follow until the last decision is made.

    Runs that an interrupted turn left unfinished are given up first: Airflow would take them up
    again, and each DAG has one run at a time. Raises LoopFailed where a step failed before any
    candidate could be judged.
    """
    for left in api.unfinished():
        tell(f"giving up {left.dag_id} {left.run_id}, which was left unfinished")
        api.give_up(left)
    run = api.trigger("build_pairs", f"by-hand-{uuid.uuid4().hex[:8]}", {})
    tell(f"started {run.dag_id}: {api.run_page(run)}")
    loop = follow(api, run, tell=tell, check=stack.services.check)
    if not loop.of("release"):
        require_success(api, loop)
    return loop, read_outcome(api, loop)


def require_success(api: AirflowApi, loop: LoopProgress) -> None:
    """Raises LoopFailed, naming each failed step with the end of its log."""
    if loop.failed:
        raise LoopFailed("\n\n".join(_explain(api, task) for task in loop.failed))


def await_served(stack: Stack, model: str, bundle_id: str) -> None:
    """Return once the server offers exactly this bundle for `model`.

    Raises SharplineError where it does not within PICKED_UP_SECONDS.
    """
    deadline = time.monotonic() + PICKED_UP_SECONDS
    while _served_bundle(stack.server_url, model) != bundle_id:
        stack.services.check()
        if time.monotonic() > deadline:
            raise SharplineError(
                f"{model} was promoted and the server did not take it up within "
                f"{PICKED_UP_SECONDS:.0f} s; see {_logs(stack, 'follower')} and "
                f"{_logs(stack, 'server')}"
            )
        time.sleep(LOOK_SECONDS)


def _served_bundle(server_url: str, model: str) -> str | None:
    reply = httpx.get(f"{server_url}/v1/models", timeout=10)
    reply.raise_for_status()
    offers = {offer["name"]: offer["bundle"] for offer in reply.json()["models"]}
    return offers.get(model)


def _logs(stack: Stack, name: str) -> Path:
    return stack.services.logs / f"{name}.log"


def _explain(api: AirflowApi, task: Task) -> str:
    end = "\n".join(f"    {line}" for line in api.log_lines(task)[-LOG_LINES:])
    return f"{task.dag_id}: the step {task.name} failed; the end of its log:\n{end}"
