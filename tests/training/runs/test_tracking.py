"""Tracking: an unavailable MLflow server neither delays a training nor loses records."""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from superres.common.errors import SharplineError
from superres.common.mlflow_client import BUNDLE_PATH, BUNDLE_TAG
from training.runs import mlflow_remote, tracking
from training.runs.hardware import MachineMetrics
from training.runs.mlflow_remote import MlflowRemote
from training.runs.spool import SENT_NAME, SPOOL_NAME, Spool
from training.runs.tracking import RunMetadata, Tracker, send, tracked

METADATA = RunMetadata(
    name="tiny",
    parameters={"patch": "12"},
    tags={"recipe": "tiny"},
    dataset_id="0123456789abcdef",
    dataset_source="garden",
)


class FakeRemote:
    """Keeps the records it receives; fails the first `failures` calls."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.taken, self.starts = failures, [], []

    def start(self, record: Mapping[str, Any], run_id: str | None) -> str:
        self._fail()
        self.starts.append(run_id)
        return run_id or "run-1"

    def log_record(self, run_id: str, record: Mapping[str, Any], folder: Path) -> None:
        self._fail()
        self.taken.append((record["note"], record.get("step")))

    def _fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("away")


@pytest.fixture(autouse=True)
def no_retry_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CLOSE_PAUSE_SECONDS", 0.0)


def track_training(tracker: Tracker, steps: int = 3) -> None:
    with tracked(tracker, METADATA):
        for step in range(steps):
            tracker.metrics(step, {"loss/l1": 0.5})


ALL_RECORDS = [("metrics", 0), ("metrics", 1), ("metrics", 2), ("end", None)]


def test_records_arrive_in_order(tmp_path: Path) -> None:
    remote = FakeRemote()
    track_training(Tracker(tmp_path, lambda: remote))
    assert remote.taken == ALL_RECORDS
    assert Spool(tmp_path).run_id == "run-1"


def test_records_are_kept_while_mlflow_is_unavailable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect() -> FakeRemote:
        raise ConnectionError("away")

    track_training(Tracker(tmp_path, connect))
    stderr = capsys.readouterr().err
    assert stderr.count("MLflow is unavailable") == 1
    assert f"--replay {tmp_path}" in stderr
    remote = FakeRemote()
    assert send(Spool(tmp_path), remote) == 5
    assert remote.taken == ALL_RECORDS
    assert send(Spool(tmp_path), remote) == 0


def test_mlflow_gets_every_record_once_after_failures(tmp_path: Path) -> None:
    remote = FakeRemote(failures=2)
    track_training(Tracker(tmp_path, lambda: remote))
    assert remote.taken == ALL_RECORDS


def test_an_mlflow_server_that_never_responds_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSE_WAIT_SECONDS", 0.1)
    called, release = threading.Event(), threading.Event()

    class Silent(FakeRemote):
        def start(self, record: Mapping[str, Any], run_id: str | None) -> str:
            called.set()
            release.wait()
            raise ConnectionError("gone")

    tracker = Tracker(tmp_path, Silent)
    track_training(tracker, steps=200)
    assert called.is_set()
    assert len((tmp_path / SPOOL_NAME).read_text().splitlines()) == 202
    release.set()
    assert tracker._thread is not None
    tracker._thread.join(60)
    assert not tracker._thread.is_alive()


def test_without_a_uri_records_are_only_spooled(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, None)
    track_training(tracker)
    assert tracker.run_id(wait_seconds=60.0) is None
    assert len((tmp_path / SPOOL_NAME).read_text().splitlines()) == 5


def test_a_failed_training_ends_as_failed(tmp_path: Path) -> None:
    remote = FakeRemote()
    with pytest.raises(ZeroDivisionError), tracked(Tracker(tmp_path, lambda: remote), METADATA):
        raise ZeroDivisionError
    last = (tmp_path / SPOOL_NAME).read_text().splitlines()[-1]
    assert json.loads(last)["status"] == "FAILED"


def test_a_resumed_training_resumes_its_mlflow_run(tmp_path: Path) -> None:
    remote = FakeRemote()
    track_training(Tracker(tmp_path, lambda: remote))
    track_training(Tracker(tmp_path, lambda: remote))
    assert remote.starts == [None, "run-1"]


def test_a_torn_last_line_is_skipped(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"note": "run"})
    with (tmp_path / SPOOL_NAME).open("a") as file:
        file.write('{"note": "metr')
    assert [record["note"] for record, _ in spool.unsent()] == ["run"]


def test_appending_after_a_torn_line_loses_no_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"note": "run"})
    with (tmp_path / SPOOL_NAME).open("a") as file:
        file.write('{"note": "metr')
    again = Spool(tmp_path)
    for record in ("tags", "end"):
        again.append({"note": record})
    assert [record["note"] for record, _ in again.unsent()] == ["run", "tags", "end"]


def test_records_are_buffered_while_the_disk_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / SPOOL_NAME
    path.symlink_to("/dev/full")
    tracker = Tracker(tmp_path, None)
    for step in (1, 2):
        tracker.metrics(step, {"loss/l1": 1.0})
    assert capsys.readouterr().err.count("buffering records") == 1
    path.unlink()
    tracker.metrics(3, {"loss/l1": 1.0})
    assert [record["step"] for record, _ in Spool(tmp_path).unsent()] == [1, 2, 3]
    path.unlink()
    path.symlink_to("/dev/full")
    tracker.close("FINISHED")
    assert "1 records of this run are lost" in capsys.readouterr().err


def test_nonfinite_metrics_are_dropped(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, None)
    tracker.metrics(1, {"psnr": float("inf"), "ssim": 1.0})
    ((record, _),) = Spool(tmp_path).unsent()
    assert record["values"] == {"ssim": 1.0}


def test_a_real_mlflow_server_has_all_records(
    mlflow_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "tiny-1"
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "bundle.json").write_text("{}")
    tracker = Tracker(folder, lambda: MlflowRemote(mlflow_server))
    with tracked(tracker, METADATA):
        assert tracker.run_id(wait_seconds=60) is not None
        for step in (10, 20):
            tracker.metrics(step, {"loss/l1": 1 / step, "picture/a b/psnr": 30.0})
        tracker.metrics(30, {"no such % name": 1.0})
        tracker.tags({"bundle_id": "abc"})
        tracker.artifacts(folder / "bundle", "bundle")
    assert "rejects a record of kind metrics" in capsys.readouterr().err
    client = MlflowClient(tracking_uri=mlflow_server)
    run_id = Spool(folder).run_id
    assert run_id is not None
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"patch": "12"}
    assert run.data.tags["bundle_id"] == "abc"
    assert run.inputs.dataset_inputs[0].dataset.digest == METADATA.dataset_id
    history = client.get_metric_history(run_id, "loss/l1")
    assert [(point.step, point.value) for point in history] == [(10, 0.1), (20, 0.05)]
    assert [file.path for file in client.list_artifacts(run_id, "bundle")] == ["bundle/bundle.json"]
    # Without the sent offset everything is sent again: the same run, no duplicates.
    (folder / SENT_NAME).unlink()
    send(Spool(folder), MlflowRemote(mlflow_server))
    assert Spool(folder).run_id == run_id
    assert len(client.get_metric_history(run_id, "loss/l1")) == 2


def history(client: Any, run_id: str, name: str) -> list[int]:
    """The steps of all points of a metric, in MLflow's order."""
    return [point.step for point in client.get_metric_history(run_id, name)]


def test_a_server_killed_in_the_middle_gets_every_point_once(
    mlflow_process: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed and restarted during training: no point is lost or duplicated."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(tracking, "MAX_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "CLOSE_WAIT_SECONDS", 60.0)
    unavailable = threading.Event()
    monkeypatch.setattr(
        tracking, "say", lambda text: "is unavailable" in text and unavailable.set()
    )
    folder = tmp_path / "killed-1"
    folder.mkdir()
    tracker = Tracker(folder, lambda: MlflowRemote(mlflow_process.uri))
    with tracked(tracker, METADATA):
        assert tracker.run_id(wait_seconds=60) is not None
        for step in range(20):
            tracker.metrics(step, {"loss/l1": 1.0})
        mlflow_process.kill()
        for step in range(20, 40):
            tracker.metrics(step, {"loss/l1": 1.0})
        assert unavailable.wait(60)
        mlflow_process.start()
        for step in range(40, 60):
            tracker.metrics(step, {"loss/l1": 1.0})
    client = MlflowClient(tracking_uri=mlflow_process.uri)
    run_id = Spool(folder).run_id
    assert run_id is not None
    assert sorted(history(client, run_id, "loss/l1")) == list(range(60))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert list(Spool(folder).unsent()) == []


def test_a_server_that_never_responds_does_not_delay_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred steps pass while the first request still waits for its response."""
    monkeypatch.setattr(tracking, "CLOSE_WAIT_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        tracker = Tracker(tmp_path, lambda: MlflowRemote(address))
        tracker.start(METADATA)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1)  # the request is sent, and the sender now waits
            for step in range(200):
                tracker.metrics(step, {"loss/l1": 1.0})
            assert tracker._thread is not None
            assert tracker._thread.is_alive()
            assert Spool(tmp_path).sent_bytes == 0
            assert sum(1 for _ in Spool(tmp_path).unsent()) == 201
            tracker.close("FINISHED")
    tracker._thread.join(60)
    assert not tracker._thread.is_alive()


def test_trainings_of_one_fine_tune_share_a_parent_run(mlflow_server: str, tmp_path: Path) -> None:
    """The first child creates the parent, the last one ends it; one failure makes it FAILED."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_server)
    metadata = [
        replace(METADATA, name=f"child-{index}", parent_run="finetune by-hand-1")
        for index in (1, 2)
    ]
    spools = []
    for index, record in enumerate(metadata):
        folder = tmp_path / record.name
        folder.mkdir()
        Tracker(folder, None).start(record)
        spools.append(Spool(folder))
        send(spools[index], MlflowRemote(mlflow_server))
    children = [client.get_run(str(spool.run_id)) for spool in spools]
    (parent_id,) = {child.data.tags[mlflow_remote.PARENT_TAG] for child in children}
    for index, (spool, record) in enumerate(zip(spools, metadata, strict=True)):
        assert client.get_run(parent_id).info.status == "RUNNING"
        status = "FAILED" if index == 0 else "FINISHED"
        spool.append({"note": "end", "status": status, "time_ms": 1})
        send(spool, MlflowRemote(mlflow_server))
        assert client.get_run(str(spool.run_id)).info.status == status
        assert record.name in client.get_run(str(spool.run_id)).info.run_name
    parent = client.get_run(parent_id)
    assert (parent.info.run_name, parent.info.status) == ("finetune by-hand-1", "FAILED")


def test_two_children_that_create_the_parent_at_once_agree(mlflow_server: str) -> None:
    from mlflow.tracking import MlflowClient

    remote, client = MlflowRemote(mlflow_server), MlflowClient(tracking_uri=mlflow_server)
    experiment_id = remote._experiment_id()
    real, first_call = remote._search_runs, iter([True])

    def late(experiment_id: str, tag: str, value: str, max_results: int = 50) -> Any:
        """The first search runs before the other child's run exists."""
        return [] if next(first_call, False) else real(experiment_id, tag, value, max_results)

    first = client.create_run(
        experiment_id, start_time=1, tags={mlflow_remote.PARENT_NAME_TAG: "shared parent"}
    )
    remote._search_runs = late  # type: ignore[method-assign]
    assert remote._parent_run_id(experiment_id, "shared parent", 2) == first.info.run_id
    (left,) = real(experiment_id, mlflow_remote.PARENT_NAME_TAG, "shared parent")
    assert left.info.run_id == first.info.run_id


def test_a_run_without_its_description_is_completed(mlflow_server: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    remote, client = MlflowRemote(mlflow_server), MlflowClient(tracking_uri=mlflow_server)
    folder = tmp_path / "half-1"
    folder.mkdir()
    many = replace(METADATA, parameters={f"key-{index}": "1" for index in range(130)})
    Tracker(folder, None).start(many)
    bare = client.create_run(remote._experiment_id(), tags={mlflow_remote.RUN_TAG: "half-1"})
    send(Spool(folder), remote)
    run = client.get_run(str(Spool(folder).run_id))
    assert run.info.run_id == bare.info.run_id
    assert len(run.data.params) == 130


def test_a_bundle_from_the_registry_is_verified(
    mlflow_server: str, tmp_path: Path, tiny_bundle: Callable[..., Any]
) -> None:
    from mlflow.tracking import MlflowClient

    bundle, other = tiny_bundle(name="from_registry"), tiny_bundle(error_levels=3)
    client = MlflowClient(tracking_uri=mlflow_server)
    run = client.create_run(MlflowRemote(mlflow_server)._experiment_id())
    run_id, source = run.info.run_id, f"{run.info.artifact_uri}/{BUNDLE_PATH}"
    client.log_artifacts(run_id, str(bundle.root), BUNDLE_PATH)
    client.create_registered_model("from_registry")
    for alias, bundle_id in (("champion", bundle.id), ("liar", other.id), ("empty", "")):
        version = client.create_model_version(
            "from_registry",
            source=source,
            run_id=run_id,
            tags={BUNDLE_TAG: bundle_id},
        )
        client.set_registered_model_alias("from_registry", alias, version.version)
    for _ in range(2):  # downloaded, then cached
        fetched = mlflow_remote.fetch_bundle(mlflow_server, "from_registry", "champion", tmp_path)
        assert (fetched.id, fetched.root) == (bundle.id, tmp_path / bundle.id)
    for alias, reason in (
        ("liar", "sent another bundle"),
        ("empty", "has no bundle"),
        ("nobody", "cannot download"),
    ):
        with pytest.raises(SharplineError, match=reason):
            mlflow_remote.fetch_bundle(mlflow_server, "from_registry", alias, tmp_path)


def test_resource_metrics_are_sampled_at_intervals(tmp_path: Path) -> None:
    seconds = iter([0.0, 0.0, 3.0, 20.0])
    machine = MachineMetrics(clock=lambda: next(seconds))
    tracker = Tracker(tmp_path, None, machine=machine)
    for step in range(3):
        tracker.metrics(step, {"loss/l1": 1.0})
    first, second, third = (record["values"] for record, _ in Spool(tmp_path).unsent())
    assert first["system/rss_megabytes"] > 10
    assert "system/rss_megabytes" not in second
    assert third["system/cpu_percent"] >= 0


def test_unavailable_resource_metrics_are_omitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.runs.hardware.STATM", tmp_path / "none")
    tracker = Tracker(tmp_path, None, machine=MachineMetrics())
    tracker.metrics(1, {"loss/l1": 1.0})
    ((record, _),) = Spool(tmp_path).unsent()
    assert "system/rss_megabytes" not in record["values"]
