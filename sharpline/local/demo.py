"""`sharpline demo`: the whole loop once, for real, on this machine."""

import time
from pathlib import Path

from sharpline.local import report, showcase, turn
from sharpline.local.outcome import Outcome
from sharpline.local.showcase import ServedPicture
from sharpline.local.stack import Ports, Stack, Tell, running
from superres.common.console import say, show
from superres.evaluation.evaluate import Pair
from superres.quality import Protocol

SCALE = 4


def demo(state: Path) -> None:
    """From pictures to promoted models to a served picture.

    A model that the gate refuses is a result, shown with its reason. Raises SharplineError where
    a step fails, after showing what the other steps came to.
    """
    tell = clocked()
    with running(state, Ports(), watched=False, tell=tell) as stack, stack.airflow_api() as api:
        loop, outcome = turn.take(api, stack, tell)
        stack.await_server()
        pair, protocol = showcase.held_out(outcome.dataset, SCALE)
        served = _serve_each(stack, outcome, pair, protocol, tell)
        picture = state / "demo" / "before_after.png"
        if served:
            best = max(served, key=lambda one: one.enhanced.psnr)
            showcase.write_comparison(picture, pair, SCALE, best)
        show(report.table(served, outcome, protocol))
        show(report.places(stack, api, loop, outcome, picture))
        turn.require_success(api, loop)
    tell("done")


def clocked() -> Tell:
    """A way to tell with the seconds that passed since now."""
    began = time.monotonic()
    return lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}")


def _serve_each(
    stack: Stack, outcome: Outcome, pair: Pair, protocol: Protocol, tell: Tell
) -> list[ServedPicture]:
    """One held-out picture through each model that was judged, promoted or not."""
    served = []
    for decision in outcome.decisions:
        if decision.promoted:
            turn.await_served(stack, decision.model, decision.bundle_id)
            tell(f"the server picked up {decision.model} version {decision.version}")
        served.append(showcase.enhance(stack.server_url, decision.model, pair, protocol))
    return served
