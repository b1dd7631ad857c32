"""The output of `demo` and `up`: the results table, paths and addresses."""

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
    """A table with one row for each served picture, followed by one line for each decision."""
    grid = Table(title=f"A held-out picture through the server\n{protocol}", title_justify="left")
    for heading in ("picture", "model", "decision"):
        grid.add_column(heading)
    for heading in ("bicubic\ndB / SSIM", "model\ndB / SSIM", "gain\ndB", "seconds", "MP/s"):
        grid.add_column(heading, justify="right")
    decisions = {decision.model: decision for decision in outcome.decisions}
    for served_picture in served:
        grid.add_row(
            served_picture.picture,
            served_picture.model,
            "promoted" if decisions[served_picture.model].promoted else "refused",
            _metrics(served_picture.bicubic),
            _metrics(served_picture.enhanced),
            f"{served_picture.enhanced.gain_over(served_picture.bicubic):+.2f}",
            f"{served_picture.seconds:.2f}",
            f"{served_picture.megapixels / served_picture.seconds:.2f}",
        )
    columns = max(MIN_COLUMNS, shutil.get_terminal_size().columns)
    text = io.StringIO()
    Console(file=text, width=columns).print(grid)
    return text.getvalue() + "\n".join(map(decision_text, outcome.decisions)) + "\n"


def decision_text(decision: Decision) -> str:
    """`compact_x4 version 2 promoted`, or `refused` with the reasons."""
    candidate = f"{decision.model} version {decision.version}"
    if decision.promoted:
        gain = decision.gain_psnr
        return f"{candidate} promoted" + (
            "" if gain is None else f", {gain:+.2f} dB on all pictures"
        )
    return f"{candidate} refused, its champion stays: {'; '.join(decision.reasons)}"


def locations(
    stack: Stack, api: AirflowApi, loop: LoopProgress, outcome: Outcome, picture: Path
) -> str:
    """Paths of the picture, the dataset and the evidence, and ids of the runs of this cycle."""
    lines = [f"before and after  {picture}", f"dataset           {outcome.dataset}"]
    for decision in outcome.decisions:
        lines += [
            f"{decision.model}",
            f"  evidence        {decision.evidence or 'none, refused before judging'}",
            f"  MLflow run      {decision.mlflow_run or 'none'}",
        ]
    lines += ["Airflow runs"] + [f"  {run.dag_id:<14}  {run.run_id}" for run in loop.runs.values()]
    return "\n".join([*lines, "", "To view them in a browser: make up (it uses the same state)"])


def addresses(stack: Stack) -> str:
    """The addresses of a running stack, with the Airflow login."""
    rows = [
        ("pictures", stack.server_url),
        ("API", f"{stack.server_url}/docs"),
        (
            "Airflow",
            f"{stack.airflow_config.url}  user {USER}, password {stack.airflow_config.password}",
        ),
        ("MLflow", stack.mlflow_url),
        ("Prometheus", stack.prometheus_url or "not installed (apt-get install prometheus)"),
        (
            "Alertmanager",
            stack.alertmanager_url or "not installed (apt-get install prometheus-alertmanager)",
        ),
        ("state, logs", str(stack.state)),
    ]
    return "\n".join(f"{name:<14}{where}" for name, where in rows)


def _metrics(score: Score) -> str:
    return f"{score.psnr:.2f} / {score.ssim:.4f}"
