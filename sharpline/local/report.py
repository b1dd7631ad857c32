"""What `demo` and `up` show at the end: the table, and where everything can be seen."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sharpline.local.airflow import USER
from sharpline.local.airflow_api import AirflowApi
from sharpline.local.loop import LoopProgress
from sharpline.local.outcome import Decision, Outcome
from sharpline.local.showcase import ServedPicture
from sharpline.local.stack import Stack
from superres.quality import Protocol, Score

MIN_COLUMNS = 110


def table(served: Sequence[ServedPicture], outcome: Outcome, protocol: Protocol) -> str:
    """One row for each model, what the server answers now, and below it each decision in words."""
    grid = Table(title=f"A held-out picture through the server\n{protocol}", title_justify="left")
    for heading in ("picture", "model", "decision"):
        grid.add_column(heading)
    for heading in ("bicubic\ndB / SSIM", "model\ndB / SSIM", "gain\ndB", "seconds", "MP/s"):
        grid.add_column(heading, justify="right")
    decisions = {decision.model: decision for decision in outcome.decisions}
    for one in served:
        grid.add_row(
            one.picture,
            one.model,
            "promoted" if decisions[one.model].promoted else "refused",
            _figures(one.bicubic),
            _figures(one.enhanced),
            f"{one.enhanced.gain_over(one.bicubic):+.2f}",
            f"{one.seconds:.2f}",
            f"{one.megapixels / one.seconds:.2f}",
        )
    columns = max(MIN_COLUMNS, shutil.get_terminal_size().columns)
    text = io.StringIO()
    Console(file=text, width=columns).print(grid)
    return text.getvalue() + "\n".join(map(decision_text, outcome.decisions)) + "\n"


def decision_text(decision: Decision) -> str:
    """`compact_x4 version 2 promoted`, or that it was refused and why."""
    which = f"{decision.model} version {decision.version}"
    if decision.promoted:
        gain = decision.gain_psnr
        return f"{which} promoted" + ("" if gain is None else f", {gain:+.2f} dB on all pictures")
    return f"{which} refused, its champion stays: {'; '.join(decision.reasons)}"


def places(
    stack: Stack, api: AirflowApi, loop: LoopProgress, outcome: Outcome, picture: Path
) -> str:
    """Where the picture, the evidence and the runs of this turn are."""
    lines = [f"before and after  {picture}", f"dataset           {outcome.dataset}"]
    for decision in outcome.decisions:
        lines += [
            f"{decision.model}",
            f"  evidence        {decision.evidence or 'none, refused before judging'}",
            f"  MLflow run      {decision.mlflow_run or 'none'}",
        ]
    lines += ["Airflow runs"] + [f"  {run.dag_id:<14}  {run.run_id}" for run in loop.runs.values()]
    return "\n".join([*lines, "", "To look at them in a browser: make up (it uses the same state)"])


def addresses(stack: Stack) -> str:
    """Every page of a running stack and how to log in."""
    rows = [
        ("pictures", stack.server_url),
        ("API", f"{stack.server_url}/docs"),
        ("Airflow", f"{stack.site.url}  user {USER}, password {stack.site.password}"),
        ("MLflow", stack.mlflow_url),
        ("Prometheus", stack.prometheus_url or "not installed (apt-get install prometheus)"),
        (
            "Alertmanager",
            stack.alertmanager_url or "not installed (apt-get install prometheus-alertmanager)",
        ),
        ("state, logs", str(stack.state)),
    ]
    return "\n".join(f"{name:<14}{where}" for name, where in rows)


def _figures(score: Score) -> str:
    return f"{score.psnr:.2f} / {score.ssim:.4f}"
