"""The three DAGs parse, stay short, and their tasks run the right commands."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import pipelines
from pipelines import steps

DAGS = Path(pipelines.__file__).parent / "dags"
SEALED = {
    "dataset": "d1",
    "path": "/data/d1",
    "pairs": {"train": 9},
    "licences": ["CC0-1.0"],
    "unchanged": False,
    "left_out": 2,
}
PARAMETERS = {"source": "div2k", "also": ["mine"], "watched": True, "mirror": None} | {
    "scale": 4,
    "degrade": "bicubic_jpeg",
    "draws": 1,
    "split_every": 0,
}


@pytest.fixture(scope="module")
def bag(airflow_home):
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS))


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Records the `sharpline` commands of tasks; each returns `result`."""
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path))
    recorder = SimpleNamespace(arguments=[], options=[], result={})

    def step(*arguments, **options):
        recorder.arguments.append([str(argument) for argument in arguments])
        recorder.options.append(options)
        return recorder.result

    recorder.step = step
    return recorder


@pytest.fixture
def task_function(bag, commands, monkeypatch):
    """The function of a task, with `step` replaced by the recorder."""
    monkeypatch.setattr(steps, "step", commands.step)

    def find(dag_id, task_id):
        function = bag.dags[dag_id].get_task(task_id).python_callable
        monkeypatch.setitem(function.__globals__, "step", commands.step)
        return function

    return find


def edges_of(dag):
    return {(task.task_id, below) for task in dag.tasks for below in task.downstream_task_ids}


def test_every_dag_parses_and_can_be_stored(bag):
    from airflow.serialization.serialized_objects import DagSerialization

    assert bag.import_errors == {}
    assert set(bag.dags) == {"build_pairs", "finetune", "release"}
    for dag in bag.dags.values():
        stored = DagSerialization.to_dict(dag)
        assert DagSerialization.from_dict(stored).dag_id == dag.dag_id


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.stem)
def test_a_dag_file_is_short(path):
    assert len(path.read_text().splitlines()) < 60


def test_pairs_are_built_on_schedule_on_events_and_with_parameters(bag):
    from airflow.sdk import AssetAny

    dag = bag.dags["build_pairs"]
    defaults = {name: dag.params[name] for name in dag.params}
    assert defaults == PARAMETERS | {"source": "sample", "also": []}
    assert edges_of(dag) == {
        ("choose", "fetch"),
        ("choose", "plan"),
        ("fetch", "plan"),
        ("plan", "build_shard"),
        ("plan", "seal"),
        ("build_shard", "seal"),
    }
    watchers = {
        asset.uri: [watcher.name for watcher in asset.watchers]
        for asset in dag.timetable.asset_condition.objects
    }
    assert watchers == {
        "sharpline://alert/retrain": ["prometheus"],
        "sharpline://source/pictures": ["folders"],
    }
    assert isinstance(dag.timetable.asset_condition, AssetAny)


@pytest.mark.parametrize("task_id", ["choose", "fetch", "plan", "build_shard", "seal"])
def test_every_step_of_a_build_is_retried_except_on_usage_errors(bag, task_id):
    from airflow.sdk import RetryAction
    from airflow.serialization.serialized_objects import DagSerialization

    dag = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags["build_pairs"]))
    task = dag.get_task(task_id)
    assert task.retries >= 3
    assert task.retry_exponential_backoff == 2.0
    assert task.max_retry_delay > task.retry_delay
    policy = bag.dags["build_pairs"].get_task(task_id).retry_policy
    assert policy.evaluate(steps.UsageFailed("no such source"), 1, 3).action == RetryAction.FAIL
    assert policy.evaluate(steps.StepFailed("killed"), 1, 3).action == RetryAction.DEFAULT


def test_a_fetch_retries_longer_than_other_steps(bag):
    fetch, seal = (bag.dags["build_pairs"].get_task(name) for name in ("fetch", "seal"))
    assert fetch.retries > seal.retries
    assert fetch.retry_delay > seal.retry_delay


def test_one_failed_training_does_not_stop_the_other_trainings(bag):
    dag = bag.dags["finetune"]
    assert dag.params["recipes"] == ["compact_x4", "esrgan_small_x4", "swinir_light_x4"]
    assert dag.get_task("candidate.train").max_active_tis_per_dag == 1
    assert dag.get_task("announce").trigger_rule == "all_done_min_one_success"
    assert dag.get_task("candidate.register").upstream_task_ids == {"trainings", "candidate.train"}
    assert "every_recipe_trained" in {task.task_id for task in dag.leaves}


class Pushed(dict):
    """The XComs that a task pushes besides its return value."""

    xcom_push = dict.__setitem__


def listed(name, kind, *, available=True, watched=False):
    fields = {
        "available": available,
        "watched": watched,
        "pictures": 8,
        "parts": ["hr"] if available else [],
    }
    return {"name": name, "kind": kind} | fields


def test_missing_sources_are_fetched_first(task_function, commands):
    sources = [listed("sample", "embedded"), listed("mine", "added", watched=True)]
    commands.result = {"sources": [*sources, listed("div2k", "catalogue", available=False)]}
    pushed = Pushed()
    assert task_function("build_pairs", "choose")(params=PARAMETERS, ti=pushed) == ["div2k"]
    assert pushed == {"names": ["div2k", "mine"]}
    assert commands.arguments == [["data", "list"]]


@pytest.mark.parametrize("mirror", [None, "http://mirror/div2k/"])
def test_fetching_uses_the_mirror_parameter(task_function, commands, mirror):
    parameters = PARAMETERS | {"mirror": mirror, "degrade": "given:unknown"}
    task_function("build_pairs", "fetch")("div2k", params=parameters)
    expected = ["data", "fetch", "div2k", "--part", "hr", "--part", "unknown_x4"]
    assert commands.arguments == [expected + (["--from", mirror] if mirror else [])]


def planned(task_function, commands, *, unchanged=False, events=None):
    commands.result = {"plan": "/plans/1", "shards": 3, "unchanged": unchanged}
    pushed = Pushed()
    shards = task_function("build_pairs", "plan")(
        ["div2k", "mine"], params=PARAMETERS, triggering_asset_events=events or {}, ti=pushed
    )
    assert pushed == {"path": "/plans/1"}
    return shards


def test_planning_passes_the_parameters_and_the_output_folder(task_function, commands, tmp_path):
    assert planned(task_function, commands) == [0, 1, 2]
    [arguments] = commands.arguments
    assert arguments[:5] == ["data", "plan", "div2k", "--also", "mine"]
    options = dict(zip(arguments[5::2], arguments[6::2], strict=True))
    assert options == {
        "--degrade": "bicubic_jpeg",
        "--scale": "4",
        "--draws": "1",
        "--split-every": "0",
        "--out": str(tmp_path / "datasets"),
    }


def test_an_unchanged_plan_builds_no_shard(task_function, commands):
    assert planned(task_function, commands, unchanged=True) == []


def test_an_alert_mixes_in_the_degradations_of_its_feature(task_function, commands):
    from pipelines.assets import RETRAIN

    alert = {"labels": {"feature": "blur"}, "value": "2"}
    event = SimpleNamespace(extra={"payload": {"alerts": [alert]}})
    planned(task_function, commands, events={RETRAIN: [event]})
    [arguments] = commands.arguments
    assert arguments[arguments.index("--degrade") + 1] == "{bicubic_jpeg: 2, defocus: 1, motion: 1}"


def test_a_shard_is_built_from_the_plan(task_function, commands):
    task_function("build_pairs", "build_shard")("/plans/1", 2)
    assert commands.arguments == [["data", "build", "--plan", "/plans/1", "--shard", "2"]]


@pytest.mark.parametrize("started_by", ["alert", "pictures"])
def test_sealing_emits_the_dataset_and_what_started_the_run(task_function, commands, started_by):
    from pipelines.assets import PICTURES, RETRAIN

    commands.result = SEALED
    event = SimpleNamespace(extra={})
    [metadata] = task_function("build_pairs", "seal")(
        "/plans/1",
        dag_run=SimpleNamespace(run_type="asset_triggered"),
        triggering_asset_events={{"alert": RETRAIN, "pictures": PICTURES}[started_by]: [event]},
    )
    assert metadata.asset.uri == "sharpline://dataset/pairs"
    assert metadata.extra == SEALED | {"started_by": started_by, "alerts": []}
    assert commands.arguments == [["data", "seal", "--plan", "/plans/1"]]


def dataset_event(**extra):
    from pipelines.assets import PAIRS

    return {PAIRS: [SimpleNamespace(extra=SEALED | {"started_by": "schedule"} | extra)]}


def test_a_changed_dataset_trains_every_recipe(task_function):
    trainings = task_function("finetune", "trainings")
    events = dataset_event()
    expanded = trainings(
        params={"recipes": ["a", "b"]}, triggering_asset_events=events, inlet_events=events
    )
    assert expanded == [{"recipe": "a", "data": "/data/d1"}, {"recipe": "b", "data": "/data/d1"}]


def test_an_unchanged_dataset_is_a_no_op_for_a_schedule(task_function):
    from airflow.sdk.exceptions import AirflowSkipException

    trainings = task_function("finetune", "trainings")
    events = dataset_event(unchanged=True)
    with pytest.raises(AirflowSkipException, match="unchanged"):
        trainings(params={"recipes": ["a"]}, triggering_asset_events=events, inlet_events=events)


def test_training_registering_and_announcing_pass_on_their_results(
    task_function, commands, monkeypatch
):
    train = task_function("finetune", "candidate.train")
    fine_tuned = {"model": "a", "bundle": "/runs/a"}
    calls = []
    monkeypatch.setitem(
        train.__globals__, "fine_tune", lambda *arguments: calls.append(arguments) or fine_tuned
    )
    run = SimpleNamespace(run_id="by-hand-1")
    trained = train("a", "/data/d1", params={"profile": "finetune"}, dag_run=run)
    assert calls == [("a", "/data/d1", "finetune", "finetune by-hand-1")]
    commands.result = {"model": "a", "version": 2, "bundle_id": "b", "alias": "challenger"}
    registered = task_function("finetune", "candidate.register")(trained, "/data/d1")
    assert commands.arguments == [["register", "/runs/a"]]
    [metadata] = task_function("finetune", "announce")([registered])
    assert metadata.extra == {"candidates": [{"model": "a", "version": 2, "dataset": "/data/d1"}]}


def candidate():
    return {"model": "a", "version": 2, "dataset": "/data/d1"}


def test_the_gate_evaluates_the_announced_version_and_may_refuse(task_function, commands):
    task_function("release", "decision.gate")(candidate())
    assert commands.arguments == [["gate", "a", "--version", "2", "--on", "/data/d1"]]
    assert commands.options == [{"result_codes": (0, 1)}]


def test_the_announced_candidates_are_released(task_function):
    from pipelines.assets import CANDIDATES

    event = SimpleNamespace(extra={"candidates": [candidate()]})
    released = task_function("release", "candidates")(
        triggering_asset_events={CANDIDATES: [event]},
        inlet_events={CANDIDATES: [event]},
    )
    assert released == [candidate()]


def test_passing_promotes_on_the_evidence(task_function, commands):
    gate_result = {"model": "a", "version": 2, "passed": True, "evidence": "/e", "reasons": []}
    task_function("release", "decision.promote")(gate_result)
    assert commands.arguments == [["promote", "a", "--version", "2", "--evidence", "/e"]]


def test_a_refused_candidate_is_skipped_with_the_reason(task_function, commands):
    from airflow.sdk.exceptions import AirflowSkipException

    gate_result = {
        "model": "a",
        "version": 2,
        "passed": False,
        "evidence": "/e",
        "reasons": ["no gain over the champion"],
    }
    with pytest.raises(AirflowSkipException, match=r"a refused: .*no gain over the champion"):
        task_function("release", "decision.promote")(gate_result)
    assert commands.arguments == []
