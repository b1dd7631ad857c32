"""`sharpline demo`: the whole loop once, on this machine."""

from pathlib import Path

from sharpline.local import cycle, report, showcase
from sharpline.local.outcome import Outcome
from sharpline.local.progress import Log, reported, timed_log
from sharpline.local.showcase import ServedPicture
from sharpline.local.stack import Ports, Stack, running
from superres.common.console import show
from superres.evaluation.evaluate import Pair
from superres.quality import Protocol

SCALE = 4


def demo(state: Path) -> None:
    """Run one cycle of the loop, then enhance a held-out picture with each judged model.

    A model that the gate refuses is a result, shown with its reason. Raises SharplineError where
    a step fails, after showing the results of the other steps.
    """
    log = timed_log()
    with (
        running(state, Ports(), with_monitoring=False, log=log) as stack,
        stack.airflow_api() as api,
    ):
        loop, outcome = cycle.run_cycle(api, stack, log)
        with reported(log, "waiting until the picture server is ready"):
            stack.await_server()
        pair, protocol = showcase.held_out(outcome.dataset, SCALE)
        served = _serve_each(stack, outcome, pair, protocol, log)
        picture = state / "demo" / "before_after.png"
        if served:
            best = max(served, key=lambda each: each.enhanced.psnr)
            showcase.write_comparison(picture, pair, SCALE, best)
        show(report.table(served, outcome, protocol))
        show(report.locations(stack, api, loop, outcome, picture))
        cycle.require_success(api, loop)
    log("done")


def _serve_each(
    stack: Stack, outcome: Outcome, pair: Pair, protocol: Protocol, log: Log
) -> list[ServedPicture]:
    """One held-out picture through each judged model, promoted or not."""
    served = []
    for decision in outcome.decisions:
        if decision.promoted:
            version = f"{decision.model} version {decision.version}"
            with reported(log, f"waiting until the server serves {version}"):
                cycle.await_served(stack, decision.model, decision.bundle_id)
        with reported(log, f"sending {pair.name} to {decision.model}"):
            served.append(showcase.enhance(stack.server_url, decision.model, pair, protocol))
    return served
