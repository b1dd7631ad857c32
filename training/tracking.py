"""Notes on a training: first to a file of the run, from there to MLflow; the only import of mlflow.

Every note is a line of `tracking.jsonl` before anything else happens to it, so nothing is lost when
MLflow is away, and what was not sent can be sent later. A thread of its own sends: training neither
waits for MLflow nor hears of its failures.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from superres.console import say
from superres.files import write_json

SPOOL_NAME, SENT_NAME = "tracking.jsonl", "tracking-sent.json"
EXPERIMENT = "sharpline"
LONGEST_PAUSE_SECONDS = 30.0
CLOSE_WAIT_SECONDS = 20.0
LAST_TRIES, LAST_PAUSE_SECONDS = 3, 1.0
# mlflow's client waits minutes by default; the sender has its own patience.
CLIENT_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNotes:
    """What a run is, told once at its start."""

    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    dataset_id: str
    dataset_source: str


class Remote(Protocol):
    """Where notes end up. Every call may raise anything; it is made again later."""

    def start(self, note: Mapping[str, Any], run_id: str | None) -> str:
        """Open a run, or go on with `run_id`; return its id."""
        ...

    def take(self, run_id: str, note: Mapping[str, Any], folder: Path) -> None:
        """Take one note; paths in it are relative to `folder`. Taking it twice changes nothing."""
        ...


class Spool:
    """The notes of one run on disk, and how far they have been sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def append(self, note: Mapping[str, Any]) -> None:
        """Add one note. Cheap: one write to an appended file."""
        line = json.dumps(note, allow_nan=False) + "\n"
        with self._lock, (self.folder / SPOOL_NAME).open("a", encoding="utf-8") as file:
            file.write(line)

    def unsent(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Notes not sent yet, each with the offset that follows it. A torn last line waits."""
        path = self.folder / SPOOL_NAME
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self.sent_bytes)
            while (line := file.readline()).endswith(b"\n"):
                yield json.loads(line), file.tell()

    @property
    def sent_bytes(self) -> int:
        """How much of the file MLflow has."""
        return self._sent()["bytes"]

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once it has one."""
        return self._sent()["run_id"]

    def mark_sent(self, offset: int, run_id: str | None) -> None:
        """Remember that everything before `offset` has arrived."""
        write_json(self.folder / SENT_NAME, {"bytes": offset, "run_id": run_id})

    def _sent(self) -> dict[str, Any]:
        path = self.folder / SENT_NAME
        return json.loads(path.read_bytes()) if path.is_file() else {"bytes": 0, "run_id": None}


def send(spool: Spool, remote: Remote) -> int:
    """Send every waiting note in order; return how many. Raises what the remote raises."""
    sent = 0
    run_id = spool.run_id
    for note, offset in spool.unsent():
        if note["note"] == "run":
            run_id = remote.start(note, run_id)
        else:
            assert run_id is not None, "the first note of a spool opens the run"
            remote.take(run_id, note, spool.folder)
        spool.mark_sent(offset, run_id)
        sent += 1
    return sent


class Tracker:
    """Takes notes for one run and sends them from a thread; without a remote it only keeps them."""

    def __init__(
        self,
        folder: Path,
        connect: Callable[[], Remote] | None,
        clock_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._spool, self._connect, self._clock_ms = Spool(folder), connect, clock_ms
        self._woken, self._closing = threading.Event(), threading.Event()
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self, notes: RunNotes) -> None:
        """Open the run, or go on with it where the folder has one."""
        self._note(
            {
                "note": "run",
                "name": notes.name,
                "parameters": dict(notes.parameters),
                "tags": dict(notes.tags),
                "dataset_id": notes.dataset_id,
                "dataset_source": notes.dataset_source,
                "key": self._spool.folder.name,
            }
        )
        if self._connect is not None:
            self._thread = threading.Thread(
                target=self._send_until_closed, name="tracking", daemon=True
            )
            self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step; infinite ones (a perfect picture's PSNR) are not kept."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._note({"note": "metrics", "step": step, "values": finite})

    def artifacts(self, path: Path, to: str) -> None:
        """A file or folder inside the run's folder, to be kept under `to`."""
        self._note(
            {"note": "artifacts", "to": to, "path": str(path.relative_to(self._spool.folder))}
        )

    def tags(self, values: Mapping[str, str]) -> None:
        """Words by which the run can be found."""
        self._note({"note": "tags", "values": dict(values)})

    def run_id(self, wait_seconds: float = 0.0) -> str | None:
        """MLflow's id of the run; waits that long for MLflow to give one."""
        if self._thread is None:
            return self._spool.run_id
        with self._idle:
            self._idle.wait_for(lambda: self._spool.run_id is not None, timeout=wait_seconds)
        return self._spool.run_id

    def close(self, status: str) -> None:
        """End the run as FINISHED or FAILED, wait a little for what is on its way, and say what
        could not be sent."""
        self._note({"note": "end", "status": status})
        if self._thread is None:
            return
        self._closing.set()
        self._woken.set()
        self._thread.join(CLOSE_WAIT_SECONDS)
        waiting = sum(1 for _ in self._spool.unsent())
        if waiting:
            say(
                f"MLflow did not take {waiting} notes of this run; they are kept. Send them with: "
                f"sharpline train --replay {self._spool.folder}"
            )

    def _note(self, note: dict[str, Any]) -> None:
        self._spool.append(note | {"time_ms": self._clock_ms()})
        self._woken.set()

    def _send_until_closed(self) -> None:
        assert self._connect is not None
        remote: Remote | None = None
        pause_seconds, told, last_tries = 1.0, False, 0
        while last_tries < LAST_TRIES:
            self._woken.wait()
            self._woken.clear()
            # Read before sending: what was noted before the closing is then sent before the end.
            closing = self._closing.is_set()
            try:
                remote = remote or self._connect()
                send(self._spool, remote)
            except Exception as error:
                # Whatever a tracking server does, training goes on; the notes stay in the spool.
                if not told:
                    say(
                        f"MLflow is away ({type(error).__name__}); training goes on, notes are kept"
                    )
                told, last_tries = True, last_tries + closing
                if closing:
                    time.sleep(LAST_PAUSE_SECONDS)
                else:
                    self._closing.wait(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
                self._woken.set()
                continue
            pause_seconds = 1.0
            with self._idle:
                self._idle.notify_all()
            if closing:
                return


class MlflowRemote:
    """An MLflow tracking server."""

    def __init__(self, uri: str) -> None:
        for name, value in CLIENT_LIMITS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)

    def start(self, note: Mapping[str, Any], run_id: str | None) -> str:
        """Open a run of the project's experiment; its key makes opening it twice harmless."""
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        experiment_id = self._experiment_id()
        known = self._client.search_runs(
            [experiment_id], filter_string=f"tags.sharpline_run = '{note['key']}'", max_results=1
        )
        if known:
            return known[0].info.run_id
        run = self._client.create_run(
            experiment_id,
            start_time=note["time_ms"],
            run_name=note["name"],
            tags={**note["tags"], "sharpline_run": note["key"]},
        )
        self._describe(run.info.run_id, note)
        return run.info.run_id

    def take(self, run_id: str, note: Mapping[str, Any], folder: Path) -> None:
        """Send one note. One that MLflow calls malformed is named and passed over."""
        from mlflow.exceptions import MlflowException

        try:
            self._take(run_id, note, folder)
        except MlflowException as error:
            if error.get_http_status_code() != HTTPStatus.BAD_REQUEST:
                raise
            say(f"MLflow refuses a note of kind {note['note']}: {error.message}")

    def _take(self, run_id: str, note: Mapping[str, Any], folder: Path) -> None:
        kind = note["note"]
        if kind == "metrics":
            self._metrics(run_id, note)
        elif kind == "artifacts":
            path = folder / note["path"]
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(run_id, str(path), note["to"])
        elif kind == "tags":
            for key, value in note["values"].items():
                self._client.set_tag(run_id, key, value)
        elif kind == "end":
            self._client.set_terminated(run_id, status=note["status"], end_time=note["time_ms"])

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(EXPERIMENT)
        except MlflowException:  # another training was quicker
            found = self._client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
            return found.experiment_id

    def _describe(self, run_id: str, note: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param

        self._client.log_batch(
            run_id, params=[Param(key, value) for key, value in note["parameters"].items()]
        )
        dataset = Dataset(
            name=note["dataset_source"],
            digest=note["dataset_id"],
            source_type="sharpline",
            source=note["dataset_source"],
        )
        self._client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=[])])

    def _metrics(self, run_id: str, note: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(
            run_id,
            metrics=[
                Metric(key, value, note["time_ms"], note["step"])
                for key, value in note["values"].items()
            ],
        )


@contextmanager
def tracked(tracker: Tracker, notes: RunNotes) -> Iterator[Tracker]:
    """Open the run, and end it as FINISHED, or as FAILED where the block raises."""
    tracker.start(notes)
    try:
        yield tracker
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FINISHED")
