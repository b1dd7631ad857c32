"""`sharpline up`: every service of the loop, until Ctrl-C."""

import time
from pathlib import Path

from sharpline.local import report, turn
from sharpline.local.demo import clocked
from sharpline.local.stack import Ports, Stack, Tell, running
from superres.common.console import say, show
from superres.common.errors import SharplineError

USUAL = Ports(server=8000, airflow=8080, mlflow=5000, prometheus=9090, alertmanager=9093)
LOOK_SECONDS = 1.0


def up(state: Path, *, with_loop: bool) -> None:
    """Start everything, say where it is, and stay; Ctrl-C ends it and is no error.

    A state in which no dataset was ever built gets its first turn of the loop, unless
    `with_loop` is False. Raises SharplineError where a service ends.
    """
    tell = clocked()
    try:
        with running(state, USUAL, watched=True, tell=tell) as stack:
            tell("waiting for the picture server to load its models")
            stack.await_server()
            show(report.addresses(stack))
            say("Ctrl-C stops everything")
            if with_loop and not any((state / "datasets").glob("*/dataset.json")):
                _first_turn(stack, tell)
            while True:
                stack.services.check()
                time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        say("stopped")


def _first_turn(stack: Stack, tell: Tell) -> None:
    """What fails here stays to be looked at in Airflow, so it ends the turn and not the stack."""
    try:
        with stack.airflow_api() as api:
            loop, outcome = turn.take(api, stack, tell)
            for decision in outcome.decisions:
                tell(report.decision_text(decision))
            turn.require_success(api, loop)
    except SharplineError as error:
        tell(str(error))
