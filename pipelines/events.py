"""What the DAGs tell each other: the extras on asset events, read and written in one place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

PERSON, SCHEDULE, ALERT, PICTURES = "person", "schedule", "alert", "pictures"
BY_ASSET = "asset_triggered"
STARTED_BY = {"scheduled": SCHEDULE, "backfill": SCHEDULE}

USUAL_DEGRADATION = "bicubic_jpeg"
# What training pictures must show more of when an alert names a feature of live pictures.
DAMAGE = {
    "noise": ("gaussian_noise", "iso_noise", "poisson_noise"),
    "blur": ("defocus", "motion"),
    "blockiness": ("jpeg",),
}


class Event(Protocol):
    """An asset event as Airflow hands it to a task."""

    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """Which dataset to train on, or why not to train at all."""

    path: str
    reason_against: str | None = None


def started_by(run_type: str, alerts: Sequence[Event]) -> str:
    """Who started a `build_pairs` run: a person, the schedule, an alert, or new pictures."""
    if run_type == BY_ASSET:
        return ALERT if alerts else PICTURES
    return STARTED_BY.get(run_type, PERSON)


def degradation_for(asked: str, alerts: Sequence[Event]) -> str:
    """The degradation that a run was asked for, mixed with the damage that alerts name.

    Half of the pairs stay as they were asked for, so that a model does not forget them; the other
    half is shared equally by the kinds of damage. Nothing is mixed in where no alert names a
    feature in DAMAGE, or where a mix was asked for.
    """
    features = {alert["labels"].get("feature") for event in alerts for alert in alerts_in(event)}
    kinds = sorted({kind for feature in features for kind in DAMAGE.get(feature, ())} - {asked})
    if not kinds or asked.lstrip().startswith("{"):
        return asked
    weights = [f"{asked}: {len(kinds)}", *(f"{kind}: 1" for kind in kinds)]
    return "{" + ", ".join(weights) + "}"


def dataset_extra(
    result: Mapping[str, Any], run_type: str, alerts: Sequence[Event]
) -> dict[str, Any]:
    """The metadata of a dataset event: what was built, for whom, and the alerts that asked."""
    fields = ("dataset", "path", "pairs", "licences", "unchanged", "left_out")
    asked = [alert for event in alerts for alert in alerts_in(event)]
    return {name: result[name] for name in fields} | {
        "started_by": started_by(run_type, alerts),
        "alerts": asked,
    }


def training_for(triggering: Sequence[Event], known: Sequence[Event]) -> TrainingRequest:
    """The newest dataset, trained on unless nothing changed and no person asked.

    `triggering` are the events that started this run, oldest first; none of them means that a
    person started it by hand, on the newest of the `known` events. Raises LookupError where no
    dataset was ever built.
    """
    if not triggering and not known:
        raise LookupError("no dataset has been built yet: run the DAG build_pairs first")
    newest = (triggering or known)[-1].extra
    if not triggering or any(_asks_for_training(event) for event in triggering):
        return TrainingRequest(path=newest["path"])
    return TrainingRequest(
        path=newest["path"],
        reason_against=f"dataset {newest['dataset']} is unchanged since the last training "
        f"and no person asked (started by: {newest['started_by']})",
    )


def candidates_extra(
    registered: Mapping[str, Any] | Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The metadata of a candidates event: registered versions and what to judge them on.

    A mapped group of which a single result is left hands that result over without a list.
    """
    alone = isinstance(registered, Mapping)
    entries = cast("Iterable[Mapping[str, Any]]", [registered] if alone else registered)
    fields = ("model", "version", "dataset")
    return {"candidates": [{name: entry[name] for name in fields} for entry in entries]}


def candidates_in(triggering: Sequence[Event], known: Sequence[Event]) -> list[dict[str, Any]]:
    """The newest candidate of each model that `triggering` names; by hand, of the last event.

    Raises LookupError where nothing was ever announced.
    """
    if not triggering and not known:
        raise LookupError("there are no candidates yet: run the DAG build_pairs first")
    events = triggering or known[-1:]
    newest = {item["model"]: item for event in events for item in event.extra["candidates"]}
    return list(newest.values())


def alerts_in(event: Event) -> list[dict[str, Any]]:
    """The alerts of a retraining event; none where a person made the event by hand."""
    return (event.extra.get("payload") or {}).get("alerts", [])


def _asks_for_training(event: Event) -> bool:
    return not event.extra["unchanged"] or event.extra["started_by"] == PERSON
