"""Following one cycle of the loop: every triggered run, each state change logged once."""

import pytest

from sharpline.local import loop as loop_module
from sharpline.local.airflow_api import AirflowApi, AirflowRefused, AirflowUnavailable
from sharpline.local.cycle import LoopFailed, require_success
from sharpline.local.loop import LoopStuck, follow
from sharpline.local.outcome import read_outcome
from superres.common.errors import SharplineError

PAIRS, CANDIDATES = "sharpline://dataset/pairs", "sharpline://models/candidates"
DATASET = {"path": "/data/d1", "dataset": "d1", "unchanged": False}


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    monkeypatch.setattr(loop_module, "POLL_SECONDS", 0.0)


@pytest.fixture
def api(airflow):
    with AirflowApi(airflow.url, "sharpline", "secret") as client:
        yield client


@pytest.fixture
def first(airflow, api):
    return api.trigger("build_pairs", "first", {})


def finish(airflow, run_id):
    airflow.run(airflow.runs[run_id]["dag_id"], run_id, "success")


def build(airflow):
    """The run `first` builds a dataset, which triggers the run `second` of finetune."""
    airflow.task("first", "plan", "running")
    yield
    airflow.task("first", "plan", "success")
    airflow.task("first", "build_shard", "success", 0)
    airflow.task("first", "seal", "success")
    airflow.events["first"] = None  # second is queued
    airflow.run("finetune", "second", "queued")
    finish(airflow, "first")
    yield
    airflow.event("first", PAIRS, DATASET, "second")
    airflow.run("finetune", "second", "running")
    yield


def train(airflow, *, trained=("a",), failed=()):
    for index, model in enumerate([*trained, *failed]):
        result = {"model": model, "run_id": f"run-{model}", "seconds": 60.0}
        if model in failed:
            airflow.task("second", "candidate.train", "failed", index)
            airflow.task("second", "candidate.register", "upstream_failed", index)
            continue
        airflow.result("second", "candidate.train", result, index)
        registered = {"model": model, "version": 2, "bundle_id": f"bundle-{model}"}
        airflow.result("second", "candidate.register", registered, index)
    yield
    airflow.run("release", "third", "queued")
    airflow.event("second", CANDIDATES, {"candidates": []}, "third")
    airflow.run("finetune", "second", "failed" if failed else "success")
    yield


def release(airflow, **gate_results):
    airflow.run("release", "third", "running")
    for index, (model, reasons) in enumerate(gate_results.items()):
        gate_result = {
            "model": model,
            "version": 2,
            "passed": not reasons,
            "reasons": reasons,
            "evidence": f"/evidence/{model}",
            "gain_psnr": 0.4,
        }
        airflow.result("third", "decision.gate", gate_result, index)
        if reasons:
            airflow.task("third", "decision.promote", "skipped", index)
        else:
            airflow.result("third", "decision.promote", {"model": model}, index)
    yield
    finish(airflow, "third")
    yield


def run_script(airflow, *stages):
    """Each poll of a run advances the stages by one."""
    for stage in stages:
        airflow.script.extend(lambda stage=stage: next(stage, None) for _ in range(3))


def test_a_full_cycle_is_followed_to_its_decisions(airflow, api, first):
    run_script(
        airflow,
        build(airflow),
        train(airflow, trained=("a", "b")),
        release(airflow, a=[], b=["no gain"]),
    )
    logged = []
    loop = follow(api, first, log=logged.append)
    assert list(loop.runs) == ["first", "second", "third"]
    assert logged.count("build_pairs: plan running") == 1
    assert "build_pairs: build_shard 0 done in 3 s" in logged
    assert "release: promote 1 skipped" in logged

    outcome = read_outcome(api, loop)
    assert outcome.dataset_id == "d1"
    promoted, refused = outcome.decisions
    assert (promoted.model, promoted.promoted, promoted.bundle_id) == ("a", True, "bundle-a")
    assert promoted.mlflow_run == "run-a"
    assert (refused.model, refused.promoted, refused.reasons) == ("b", False, ("no gain",))
    require_success(api, loop)


def test_one_failed_training_is_reported_with_its_log_and_the_rest_continues(airflow, api, first):
    airflow.logs["candidate.train"] = [
        {"event": "step 1"},
        {
            "event": "Task failed",
            "error_detail": [
                {
                    "exc_type": "StepFailed",
                    "exc_value": "train failed with exit 1\nthe disk is full",
                },
            ],
        },
        "a plain line",
    ]
    run_script(airflow, build(airflow), train(airflow, failed=("b",)), release(airflow, a=[]))
    loop = follow(api, first, log=lambda _: None)
    assert [decision.model for decision in read_outcome(api, loop).decisions] == ["a"]
    with pytest.raises(LoopFailed, match=r"(?s)finetune: step train 1 failed.*disk is full"):
        require_success(api, loop)


def test_a_run_that_fails_without_an_asset_event_ends_the_cycle(airflow, api, first):
    def fail():
        airflow.task("first", "plan", "failed")
        airflow.run("build_pairs", "first", "failed")

    airflow.script.append(fail)
    loop = follow(api, first, log=lambda _: None)
    assert [task.task_id for task in loop.failed] == ["plan"]
    with pytest.raises(SharplineError, match="without a dataset"):
        read_outcome(api, loop)


def test_an_asset_event_that_triggers_no_run_is_an_error(airflow, api, first, monkeypatch):
    monkeypatch.setattr(loop_module, "NEXT_RUN_SECONDS", 0.2)
    airflow.event("first", PAIRS, DATASET)
    finish(airflow, "first")
    with pytest.raises(LoopStuck, match=f"no run was triggered by {PAIRS}"):
        follow(api, first, log=lambda _: None)


@pytest.fixture
def always_report(monkeypatch):
    monkeypatch.setattr(loop_module, "INTERVAL_SECONDS", 0.0)


def test_a_running_task_is_reported_with_the_newest_line_of_its_command(
    airflow, api, first, always_report
):
    def line(text, logger="pipelines.steps"):
        return {"event": text, "logger": logger}

    def run():
        airflow.task("first", "train", "running", 0, "compact_x4")
        airflow.logs["train"] = [line("running: sharpline train compact_x4"), "a plain line"]
        yield
        airflow.logs["train"] += [line("compact_x4:  40%  28.1 dB"), line("heartbeat", "task")]
        yield
        yield
        airflow.task("first", "train", "success", 0, "compact_x4")
        finish(airflow, "first")

    stages = run()
    airflow.script.extend([lambda: next(stages, None)] * 4)
    logged = []
    follow(api, first, log=logged.append)
    assert logged == [
        "build_pairs: train compact_x4 running",
        "build_pairs: train compact_x4: running for 0 s",
        "build_pairs: train compact_x4: 40%  28.1 dB",
        "build_pairs: train compact_x4: running for 0 s",
        "build_pairs: train compact_x4 done in 3 s",
    ]


def test_a_task_whose_log_cannot_be_read_is_reported_by_its_time(
    airflow, api, first, always_report
):
    def run():
        airflow.task("first", "plan", "running")
        yield
        finish(airflow, "first")

    run_script(airflow, run())
    logged = []
    follow(api, first, log=logged.append)
    assert "build_pairs: plan: running for 0 s" in logged


@pytest.mark.parametrize("unnamed", [None, "", "0"])
def test_a_mapped_task_is_announced_once_it_has_its_name(airflow, api, first, unnamed):
    def run():
        airflow.task("first", "train", "queued", 0, unnamed)
        yield
        airflow.task("first", "train", "running", 0, unnamed)
        yield
        airflow.task("first", "train", "running", 0, "compact_x4")
        yield
        finish(airflow, "first")

    stages = run()
    airflow.script.extend([lambda: next(stages, None)] * 4)
    logged = []
    follow(api, first, log=logged.append)
    assert logged == ["build_pairs: train compact_x4 running"]


def test_a_short_outage_of_airflow_is_survived(airflow, api, first):
    def recover():
        airflow.unresponsive = False

    airflow.unresponsive = True
    finish(airflow, "first")
    polls = iter([lambda: None, lambda: None, recover])
    loop = follow(api, first, log=lambda _: None, check=lambda: next(polls, lambda: None)())
    assert loop.finished


def test_a_long_outage_of_airflow_is_an_error(airflow, api, first, monkeypatch):
    monkeypatch.setattr(loop_module, "UNAVAILABLE_SECONDS", 0.1)
    airflow.unresponsive = True
    with pytest.raises(AirflowUnavailable, match="does not respond"):
        follow(api, first, log=lambda _: None)


def test_a_dead_service_ends_following(api, first):
    def check():
        raise SharplineError("server ended with exit code 1")

    with pytest.raises(SharplineError, match="server ended"):
        follow(api, first, log=lambda _: None, check=check)


def test_triggering_is_idempotent_by_run_id(airflow, api):
    assert api.trigger("build_pairs", "x", {"scale": 2}) == api.trigger("build_pairs", "x", {})
    assert [body["conf"] for body in airflow.triggered] == [{"scale": 2}]


def test_a_wrong_password_is_refused(airflow):
    with (
        AirflowApi(airflow.url, "sharpline", "guess") as client,
        pytest.raises(AirflowRefused, match="401"),
    ):
        client.dag_ids()


def test_the_result_of_a_task_without_one_is_none(airflow, api, first):
    airflow.task("first", "seal", "success")
    [task] = api.tasks(first)
    assert api.result(task) is None
