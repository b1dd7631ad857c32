"""`sharpline up`: every service of the loop, until Ctrl-C."""

import time
from pathlib import Path

from sharpline.local import cycle, report
from sharpline.local.progress import Log, reported, timed_log
from sharpline.local.stack import Ports, Stack, running
from superres.common.console import say, show
from superres.common.errors import SharplineError

DEFAULT_PORTS = Ports(server=8000, airflow=8080, mlflow=5000, prometheus=9090, alertmanager=9093)
POLL_SECONDS = 1.0


def up(state: Path, *, with_loop: bool) -> None:
    """Start every service, print the addresses, and run until Ctrl-C, which is not an error.

    A state without datasets starts a first cycle of the loop, unless `with_loop` is False. Raises
    SharplineError if a service exits.
    """
    log = timed_log()
    try:
        with running(state, DEFAULT_PORTS, with_monitoring=True, log=log) as stack:
            with reported(log, "waiting for the picture server to load its models"):
                stack.await_server()
            show(report.addresses(stack))
            say("Ctrl-C stops everything")
            if with_loop and not any((state / "datasets").glob("*/dataset.json")):
                _first_cycle(stack, log)
            while True:
                stack.services.check()
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        say("stopped")


def _first_cycle(stack: Stack, log: Log) -> None:
    """Run the first cycle; a failure is logged and leaves the stack running for inspection."""
    try:
        with stack.airflow_api() as api:
            loop, outcome = cycle.run_cycle(api, stack, log)
            for decision in outcome.decisions:
                log(report.decision_text(decision))
            cycle.require_success(api, loop)
    except SharplineError as error:
        log(str(error))
