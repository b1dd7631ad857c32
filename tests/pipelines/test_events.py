"""What asset events say, and when a new dataset is worth a training."""

from dataclasses import dataclass, field
from enum import Enum

import pytest

from pipelines.events import (
    alerts_in,
    candidates_extra,
    candidates_in,
    dataset_extra,
    started_by,
    training_for,
)

SEALED = {
    "dataset": "d1",
    "path": "/data/d1",
    "pairs": {"train": 9},
    "licences": ["CC0"],
    "unchanged": False,
    "left_out": 0,
}


@dataclass
class Event:
    extra: dict = field(default_factory=dict)


def built(run_type, *, unchanged, name="d1"):
    sealed = SEALED | {"dataset": name, "path": f"/data/{name}", "unchanged": unchanged}
    return Event(dataset_extra(sealed, run_type, []))


@pytest.mark.parametrize(
    ("run_type", "who"),
    [
        ("manual", "person"),
        ("scheduled", "schedule"),
        ("asset_triggered", "alert"),
    ],
)
def test_a_run_type_says_who_started_it(run_type, who):
    assert started_by(run_type) == who


def test_a_run_type_may_be_the_enumeration_that_airflow_hands_to_tasks():
    kinds = Enum("Kind", {"ASSET_TRIGGERED": "asset_triggered"}, type=str)
    assert started_by(kinds.ASSET_TRIGGERED) == "alert"


def test_a_dataset_event_carries_the_alerts_that_asked_for_it():
    alert = {"labels": {"feature": "noise"}, "value": "3"}
    event = Event({"from_trigger": True, "payload": {"alerts": [alert]}})
    extra = dataset_extra(SEALED, "asset_triggered", [event])
    assert extra["alerts"] == [alert]
    assert extra["started_by"] == "alert"
    assert "left_out" not in extra


def test_an_event_made_by_hand_has_no_alerts():
    assert alerts_in(Event()) == []
    assert alerts_in(Event({"payload": None})) == []


@pytest.mark.parametrize("run_type", ["manual", "scheduled", "asset_triggered"])
def test_a_changed_dataset_is_trained_on_whoever_asked(run_type):
    training = training_for([built(run_type, unchanged=False)], [])
    assert training.path == "/data/d1"
    assert training.reason_against is None


@pytest.mark.parametrize(
    ("run_type", "trains"),
    [
        ("manual", True),
        ("scheduled", False),
        ("asset_triggered", False),
    ],
)
def test_an_unchanged_dataset_is_trained_on_for_a_person_only(run_type, trains):
    training = training_for([built(run_type, unchanged=True)], [])
    assert (training.reason_against is None) == trains


def test_a_change_that_waited_is_not_lost_behind_an_unchanged_build():
    waiting = [built("scheduled", unchanged=False), built("scheduled", unchanged=True)]
    assert training_for(waiting, []).reason_against is None


def test_by_hand_the_newest_dataset_is_trained_on_though_unchanged():
    known = [built("manual", unchanged=False), built("scheduled", unchanged=True, name="d2")]
    training = training_for([], known)
    assert training.path == "/data/d2"
    assert training.reason_against is None


def test_without_any_dataset_there_is_a_reason_and_what_to_do():
    with pytest.raises(LookupError, match="run the DAG build_pairs first"):
        training_for([], [])


def registered(model, version):
    return {"model": model, "version": version, "dataset": "/data/d1", "alias": "challenger"}


def test_the_newest_version_of_each_model_is_judged_once():
    events = [
        Event(candidates_extra([registered("a", 2), registered("b", 2)])),
        Event(candidates_extra([registered("a", 3)])),
    ]
    judged = [(item["model"], item["version"]) for item in candidates_in(events, [])]
    assert judged == [("a", 3), ("b", 2)]


def test_a_lone_candidate_may_come_without_a_list():
    alone = candidates_extra(registered("a", 2))
    assert alone == candidates_extra([registered("a", 2)])


def test_by_hand_the_last_candidates_are_judged():
    known = [
        Event(candidates_extra([registered("a", 2)])),
        Event(candidates_extra([registered("b", 2)])),
    ]
    assert [item["model"] for item in candidates_in([], known)] == ["b"]


def test_without_candidates_there_is_a_reason_and_what_to_do():
    with pytest.raises(LookupError, match="no candidates yet"):
        candidates_in([], [])
