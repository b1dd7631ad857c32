"""MLflow's absence costs a training nothing, and no note is lost."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from training import tracking
from training.tracking import MlflowRemote, RunNotes, Spool, Tracker, send, tracked

NOTES = RunNotes(
    name="tiny",
    parameters={"patch": "12"},
    tags={"recipe": "tiny"},
    dataset_id="0123456789abcdef",
    dataset_source="garden",
)


class Remote:
    """Remembers what it took; fails the first `failures` calls."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.taken, self.starts = failures, [], []

    def start(self, note: Mapping[str, Any], run_id: str | None) -> str:
        self._fail()
        self.starts.append(run_id)
        return run_id or "run-1"

    def take(self, run_id: str, note: Mapping[str, Any], folder: Path) -> None:
        self._fail()
        self.taken.append((note["note"], note.get("step")))

    def _fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("away")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "LAST_PAUSE_SECONDS", 0.0)


def note_a_training(tracker: Tracker, steps: int = 3) -> None:
    with tracked(tracker, NOTES):
        for step in range(steps):
            tracker.metrics(step, {"loss/l1": 0.5})


EVERYTHING = [("metrics", 0), ("metrics", 1), ("metrics", 2), ("end", None)]


def test_notes_arrive_in_order(tmp_path: Path) -> None:
    remote = Remote()
    note_a_training(Tracker(tmp_path, lambda: remote))
    assert remote.taken == EVERYTHING
    assert Spool(tmp_path).run_id == "run-1"


def test_mlflow_away_keeps_every_note_for_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect() -> Remote:
        raise ConnectionError("away")

    note_a_training(Tracker(tmp_path, connect))
    said = capsys.readouterr().err
    assert said.count("MLflow is away") == 1
    assert f"--replay {tmp_path}" in said
    remote = Remote()
    assert send(Spool(tmp_path), remote) == 5
    assert remote.taken == EVERYTHING
    assert send(Spool(tmp_path), remote) == 0


def test_mlflow_coming_back_gets_everything_once(tmp_path: Path) -> None:
    remote = Remote(failures=2)
    note_a_training(Tracker(tmp_path, lambda: remote))
    assert remote.taken == EVERYTHING


def test_an_mlflow_that_never_answers_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSE_WAIT_SECONDS", 0.1)
    asked, release = threading.Event(), threading.Event()

    class Silent(Remote):
        def start(self, note: Mapping[str, Any], run_id: str | None) -> str:
            asked.set()
            release.wait()
            raise ConnectionError("gone")

    tracker = Tracker(tmp_path, Silent)
    note_a_training(tracker, steps=200)
    assert asked.is_set()
    assert len((tmp_path / tracking.SPOOL_NAME).read_text().splitlines()) == 202
    release.set()
    assert tracker._thread is not None
    tracker._thread.join(10)
    assert not tracker._thread.is_alive()


def test_without_an_address_notes_are_only_kept(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, None)
    note_a_training(tracker)
    assert tracker.run_id(wait_seconds=5.0) is None
    assert len((tmp_path / tracking.SPOOL_NAME).read_text().splitlines()) == 5


def test_a_failed_training_ends_as_failed(tmp_path: Path) -> None:
    remote = Remote()
    with pytest.raises(ZeroDivisionError), tracked(Tracker(tmp_path, lambda: remote), NOTES):
        raise ZeroDivisionError
    last = (tmp_path / tracking.SPOOL_NAME).read_text().splitlines()[-1]
    assert json.loads(last)["status"] == "FAILED"


def test_a_resumed_training_goes_on_with_its_run(tmp_path: Path) -> None:
    remote = Remote()
    note_a_training(Tracker(tmp_path, lambda: remote))
    note_a_training(Tracker(tmp_path, lambda: remote))
    assert remote.starts == [None, "run-1"]


def test_a_line_torn_by_a_crash_waits(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"note": "run"})
    with (tmp_path / tracking.SPOOL_NAME).open("a") as file:
        file.write('{"note": "metr')
    assert [note["note"] for note, _ in spool.unsent()] == ["run"]


def test_figures_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, None)
    tracker.metrics(1, {"psnr": float("inf"), "ssim": 1.0})
    ((note, _),) = Spool(tmp_path).unsent()
    assert note["values"] == {"ssim": 1.0}


def test_a_real_mlflow_holds_what_was_noted(
    mlflow_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "tiny-1"
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "bundle.json").write_text("{}")
    tracker = Tracker(folder, lambda: MlflowRemote(mlflow_server))
    with tracked(tracker, NOTES):
        assert tracker.run_id(wait_seconds=60) is not None
        for step in (10, 20):
            tracker.metrics(step, {"loss/l1": 1 / step, "picture/a b/psnr": 30.0})
        tracker.metrics(30, {"no such % name": 1.0})
        tracker.tags({"bundle_id": "abc"})
        tracker.artifacts(folder / "bundle", "bundle")
    assert "refuses a note of kind metrics" in capsys.readouterr().err
    client = MlflowClient(tracking_uri=mlflow_server)
    run_id = Spool(folder).run_id
    assert run_id is not None
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"patch": "12"}
    assert run.data.tags["bundle_id"] == "abc"
    assert run.inputs.dataset_inputs[0].dataset.digest == NOTES.dataset_id
    history = client.get_metric_history(run_id, "loss/l1")
    assert [(point.step, point.value) for point in history] == [(10, 0.1), (20, 0.05)]
    assert [file.path for file in client.list_artifacts(run_id, "bundle")] == ["bundle/bundle.json"]
    # The state lost, all is sent once more: the same run, nothing double.
    (folder / tracking.SENT_NAME).unlink()
    send(Spool(folder), MlflowRemote(mlflow_server))
    assert Spool(folder).run_id == run_id
    assert len(client.get_metric_history(run_id, "loss/l1")) == 2
