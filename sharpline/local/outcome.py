"""The outcome of one cycle of the loop, read from its tasks and events in Airflow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpline.local.airflow_api import AirflowApi, Task
from sharpline.local.loop import LoopProgress
from superres.common.errors import SharplineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of one recipe's candidate."""

    model: str
    version: int
    bundle_id: str
    mlflow_run: str | None
    train_seconds: float
    promoted: bool
    gain_psnr: float | None  # dB over the champion
    reasons: tuple[str, ...]  # why the gate refused it
    evidence: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The dataset that was built and the outcome of each candidate."""

    dataset: Path
    dataset_id: str
    unchanged: bool
    decisions: tuple[Decision, ...]


def read_outcome(api: AirflowApi, loop: LoopProgress) -> Outcome:
    """Raises SharplineError where the loop built no dataset."""
    datasets = [
        event.extra for events in loop.events.values() for event in events if "path" in event.extra
    ]
    if not datasets:
        raise SharplineError("the loop ended without a dataset")
    return Outcome(
        dataset=Path(datasets[0]["path"]),
        dataset_id=datasets[0]["dataset"],
        unchanged=datasets[0]["unchanged"],
        decisions=tuple(_decisions(api, loop)),
    )


def _decisions(api: AirflowApi, loop: LoopProgress) -> list[Decision]:
    trained = _results(api, loop.tasks_of("finetune"), "train")
    registered = _results(api, loop.tasks_of("finetune"), "register")
    promoted = _results(api, loop.tasks_of("release"), "promote")
    gate_results = _results(api, loop.tasks_of("release"), "gate")
    return [
        Decision(
            model=model,
            version=gate_result["version"],
            bundle_id=registered[model]["bundle_id"],
            mlflow_run=trained[model]["run_id"],
            train_seconds=trained[model]["seconds"],
            promoted=model in promoted,
            gain_psnr=gate_result["gain_psnr"],
            reasons=tuple(gate_result["reasons"]),
            evidence=Path(gate_result["evidence"]) if gate_result["evidence"] else None,
        )
        for model, gate_result in gate_results.items()
    ]


def _results(api: AirflowApi, tasks: list[Task], step: str) -> dict[str, dict[str, Any]]:
    """The return value of each successful instance of a step, by model."""
    successful = [
        task for task in tasks if task.task_id.rsplit(".")[-1] == step and task.state == "success"
    ]
    results = [api.result(task) for task in successful]
    return {result["model"]: result for result in results}
