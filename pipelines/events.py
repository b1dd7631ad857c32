"""The extras of asset events, by which the DAGs pass metadata to each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

MANUAL, SCHEDULE, ALERT, PICTURES = "manual", "schedule", "alert", "pictures"
ASSET_TRIGGERED = "asset_triggered"
STARTED_BY_RUN_TYPE = {"scheduled": SCHEDULE, "backfill": SCHEDULE}

DEFAULT_DEGRADATION = "bicubic_jpeg"
# Degradation kinds to train on when an alert names a feature of live pictures.
KINDS_BY_FEATURE = {
    "noise": ("gaussian_noise", "iso_noise", "poisson_noise"),
    "blur": ("defocus", "motion"),
    "blockiness": ("jpeg",),
}


class Event(Protocol):
    """An asset event as Airflow passes it to a task."""

    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """The dataset to train on, or the reason to skip the training."""

    path: str
    skip_reason: str | None = None


def started_by(run_type: str, alerts: Sequence[Event]) -> str:
    """What started a `build_pairs` run: a person, the schedule, an alert, or new pictures."""
    if run_type == ASSET_TRIGGERED:
        return ALERT if alerts else PICTURES
    return STARTED_BY_RUN_TYPE.get(run_type, MANUAL)


def degradation_for(requested: str, alerts: Sequence[Event]) -> str:
    """The requested degradation, mixed with the kinds that belong to the alerts' features.

    Half of the pairs keep the requested degradation, against forgetting; the kinds share the other
    half equally. Nothing is mixed in where no alert names a feature in KINDS_BY_FEATURE, or where a
    mix was requested.
    """
    features = {alert["labels"].get("feature") for event in alerts for alert in alerts_in(event)}
    kinds = sorted(
        {kind for feature in features for kind in KINDS_BY_FEATURE.get(feature, ())} - {requested}
    )
    if not kinds or requested.lstrip().startswith("{"):
        return requested
    weights = [f"{requested}: {len(kinds)}", *(f"{kind}: 1" for kind in kinds)]
    return "{" + ", ".join(weights) + "}"


def dataset_extra(
    result: Mapping[str, Any], run_type: str, alerts: Sequence[Event]
) -> dict[str, Any]:
    """The extra of a dataset event: the dataset, what started the run, and the alerts."""
    fields = ("dataset", "path", "pairs", "licences", "unchanged", "left_out")
    return {name: result[name] for name in fields} | {
        "started_by": started_by(run_type, alerts),
        "alerts": [alert for event in alerts for alert in alerts_in(event)],
    }


def training_request(triggering: Sequence[Event], inlet_events: Sequence[Event]) -> TrainingRequest:
    """Train on the newest dataset, or skip if it is unchanged and no person started its build.

    `triggering` are the events that started this run, oldest first; a run without any was started
    manually and uses the newest of `inlet_events`. Raises LookupError where no dataset was ever
    built.
    """
    if not triggering and not inlet_events:
        raise LookupError("no dataset has been built yet: run the DAG build_pairs first")
    newest = (triggering or inlet_events)[-1].extra
    if not triggering or any(_needs_training(event) for event in triggering):
        return TrainingRequest(path=newest["path"])
    return TrainingRequest(
        path=newest["path"],
        skip_reason=f"dataset {newest['dataset']} is unchanged since the last training "
        f"and was not built by a person (started by: {newest['started_by']})",
    )


def candidates_extra(
    registered: Mapping[str, Any] | Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The extra of a candidates event: registered versions and the datasets to evaluate them on.

    Airflow passes the result of a mapped group without a list where only one is left.
    """
    single = isinstance(registered, Mapping)
    entries = cast("Iterable[Mapping[str, Any]]", [registered] if single else registered)
    fields = ("model", "version", "dataset")
    return {"candidates": [{name: entry[name] for name in fields} for entry in entries]}


def candidates_in(
    triggering: Sequence[Event], inlet_events: Sequence[Event]
) -> list[dict[str, Any]]:
    """The newest candidate of each model in `triggering`; in manual runs, of the last event.

    Raises LookupError where there was never a candidate.
    """
    if not triggering and not inlet_events:
        raise LookupError("there are no candidates yet: run the DAG build_pairs first")
    events = triggering or inlet_events[-1:]
    newest = {item["model"]: item for event in events for item in event.extra["candidates"]}
    return list(newest.values())


def alerts_in(event: Event) -> list[dict[str, Any]]:
    """The alerts of a retraining event; empty where the event was created manually."""
    return (event.extra.get("payload") or {}).get("alerts", [])


def _needs_training(event: Event) -> bool:
    return not event.extra["unchanged"] or event.extra["started_by"] == MANUAL
