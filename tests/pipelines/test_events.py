"""The extras of asset events, and when a new dataset is trained on."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

import pipelines
from pipelines.events import (
    DEFAULT_DEGRADATION,
    KINDS_BY_FEATURE,
    alerts_in,
    candidates_extra,
    candidates_in,
    dataset_extra,
    degradation_for,
    started_by,
    training_request,
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
    ("run_type", "started"),
    [
        ("manual", "manual"),
        ("scheduled", "schedule"),
        ("asset_triggered", "alert"),
    ],
)
def test_a_run_type_tells_what_started_the_run(run_type, started):
    assert started_by(run_type, [Event()]) == started


def test_an_asset_run_without_alerts_was_started_by_pictures():
    assert started_by("asset_triggered", []) == "pictures"


def test_a_run_type_may_be_the_enumeration_that_airflow_hands_to_tasks():
    kinds = Enum("Kind", {"ASSET_TRIGGERED": "asset_triggered"}, type=str)
    assert started_by(kinds.ASSET_TRIGGERED, [Event()]) == "alert"


def alert_event(*features, name="SharplineInputDrift"):
    labels = [{"alertname": name, "feature": feature} for feature in features]
    alerts = [{"labels": entry, "value": "3"} for entry in labels]
    return Event({"from_trigger": True, "payload": {"alerts": alerts}})


def test_a_dataset_event_carries_the_alerts_that_triggered_it():
    event = alert_event("noise")
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
def test_half_of_the_mix_are_the_degradations_of_the_alerts_feature(feature, mix):
    assert degradation_for("bicubic", [alert_event(feature)]) == mix


def test_alerts_of_one_run_mix_in_each_kind_once():
    both = [alert_event("blur", "blockiness"), alert_event("blur")]
    assert degradation_for("bicubic", both) == "{bicubic: 3, defocus: 1, jpeg: 1, motion: 1}"


@pytest.mark.parametrize("events", [[], [Event()], [alert_event("height")], [alert_event(None)]])
def test_without_a_known_feature_nothing_is_mixed_in(events):
    assert degradation_for("bicubic_jpeg", events) == "bicubic_jpeg"


@pytest.mark.parametrize("requested", ["{bicubic: 1, real_esrgan: 2}", "jpeg"])
def test_a_requested_mix_is_not_changed(requested):
    assert degradation_for(requested, [alert_event("blockiness")]) == requested


@pytest.mark.parametrize("feature", KINDS_BY_FEATURE)
def test_every_mix_can_be_parsed(feature):
    mix = dict(parse(degradation_for(DEFAULT_DEGRADATION, [alert_event(feature)])).weights)
    assert mix.pop(DEFAULT_DEGRADATION) == sum(mix.values())
    assert set(mix) == set(KINDS_BY_FEATURE[feature])


def test_every_feature_of_the_retraining_alert_has_kinds():
    [matcher] = re.findall(r'feature=~"([^"]+)"', ALERTS.read_text())
    assert set(matcher.split("|")) == set(KINDS_BY_FEATURE)


def test_a_manual_event_has_no_alerts():
    assert alerts_in(Event()) == []
    assert alerts_in(Event({"payload": None})) == []


@pytest.mark.parametrize("run_type", ["manual", "scheduled", "asset_triggered"])
def test_a_changed_dataset_is_trained_on_after_every_run_type(run_type):
    training = training_request([built(run_type, unchanged=False)], [])
    assert training.path == "/data/d1"
    assert training.skip_reason is None


@pytest.mark.parametrize(
    ("run_type", "trains"),
    [
        ("manual", True),
        ("scheduled", False),
        ("asset_triggered", False),
    ],
)
def test_an_unchanged_dataset_is_trained_on_after_manual_runs_only(run_type, trains):
    training = training_request([built(run_type, unchanged=True)], [])
    assert (training.skip_reason is None) == trains


def test_a_queued_change_is_not_lost_behind_an_unchanged_build():
    queued = [built("scheduled", unchanged=False), built("scheduled", unchanged=True)]
    assert training_request(queued, []).skip_reason is None


def test_a_manual_run_trains_on_the_newest_dataset_even_if_unchanged():
    inlet_events = [built("manual", unchanged=False), built("scheduled", unchanged=True, name="d2")]
    training = training_request([], inlet_events)
    assert training.path == "/data/d2"
    assert training.skip_reason is None


def test_without_any_dataset_the_error_names_the_dag_to_run():
    with pytest.raises(LookupError, match="run the DAG build_pairs first"):
        training_request([], [])


def registered(model, version):
    return {"model": model, "version": version, "dataset": "/data/d1", "alias": "challenger"}


def test_the_newest_version_of_each_model_is_a_candidate_once():
    events = [
        Event(candidates_extra([registered("a", 2), registered("b", 2)])),
        Event(candidates_extra([registered("a", 3)])),
    ]
    candidates = [(item["model"], item["version"]) for item in candidates_in(events, [])]
    assert candidates == [("a", 3), ("b", 2)]


def test_a_single_candidate_may_come_without_a_list():
    single = candidates_extra(registered("a", 2))
    assert single == candidates_extra([registered("a", 2)])


def test_a_manual_run_takes_the_last_candidates():
    inlet_events = [
        Event(candidates_extra([registered("a", 2)])),
        Event(candidates_extra([registered("b", 2)])),
    ]
    assert [item["model"] for item in candidates_in([], inlet_events)] == ["b"]


def test_without_candidates_the_error_says_so():
    with pytest.raises(LookupError, match="no candidates yet"):
        candidates_in([], [])
