"""What asset events say, and when a new dataset is worth a training."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

import pipelines
from pipelines.events import (
    DAMAGE,
    USUAL_DEGRADATION,
    alerts_in,
    candidates_extra,
    candidates_in,
    dataset_extra,
    degradation_for,
    started_by,
    training_for,
)
from superres.degrade import parse

ALERTS = Path(pipelines.__file__).parents[1] / "monitoring" / "prometheus" / "alerts.yml"
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
    assert started_by(run_type, [Event()]) == who


def test_an_event_that_is_no_alert_is_about_pictures():
    assert started_by("asset_triggered", []) == "pictures"


def test_a_run_type_may_be_the_enumeration_that_airflow_hands_to_tasks():
    kinds = Enum("Kind", {"ASSET_TRIGGERED": "asset_triggered"}, type=str)
    assert started_by(kinds.ASSET_TRIGGERED, [Event()]) == "alert"


def alarm(*features, name="SharplineInputDrift"):
    labels = [{"alertname": name, "feature": feature} for feature in features]
    alerts = [{"labels": one, "value": "3"} for one in labels]
    return Event({"from_trigger": True, "payload": {"alerts": alerts}})


def test_a_dataset_event_carries_the_alerts_that_asked_for_it():
    event = alarm("noise")
    extra = dataset_extra(SEALED | {"plan": "/plans/1"}, "asset_triggered", [event])
    assert extra == SEALED | {"started_by": "alert", "alerts": event.extra["payload"]["alerts"]}


@pytest.mark.parametrize(
    ("feature", "mix"),
    [
        ("noise", "{bicubic: 3, gaussian_noise: 1, iso_noise: 1, poisson_noise: 1}"),
        ("blur", "{bicubic: 2, defocus: 1, motion: 1}"),
        ("blockiness", "{bicubic: 1, jpeg: 1}"),
    ],
)
def test_half_of_what_an_alert_asks_for_is_the_damage_that_it_names(feature, mix):
    assert degradation_for("bicubic", [alarm(feature)]) == mix


def test_alerts_of_one_run_mix_all_their_damage_once():
    both = [alarm("blur", "blockiness"), alarm("blur")]
    assert degradation_for("bicubic", both) == "{bicubic: 3, defocus: 1, jpeg: 1, motion: 1}"


@pytest.mark.parametrize("events", [[], [Event()], [alarm("height")], [alarm(None)]])
def test_without_a_feature_that_training_can_imitate_nothing_is_mixed_in(events):
    assert degradation_for("bicubic_jpeg", events) == "bicubic_jpeg"


@pytest.mark.parametrize("asked", ["{bicubic: 1, real_esrgan: 2}", "jpeg"])
def test_a_mix_that_was_asked_for_stays_as_it_is(asked):
    assert degradation_for(asked, [alarm("blockiness")]) == asked


@pytest.mark.parametrize("feature", DAMAGE)
def test_every_mix_is_one_that_building_understands(feature):
    mix = dict(parse(degradation_for(USUAL_DEGRADATION, [alarm(feature)])).weights)
    assert mix.pop(USUAL_DEGRADATION) == sum(mix.values())
    assert set(mix) == set(DAMAGE[feature])


def test_every_feature_that_may_retrain_has_its_damage():
    [matcher] = re.findall(r'feature=~"([^"]+)"', ALERTS.read_text())
    assert set(matcher.split("|")) == set(DAMAGE)


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
