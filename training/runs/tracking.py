"""Notes on a training: first to a file of the run, from there to MLflow; the only import of mlflow.

Every note is in the run's spool before anything else happens to it, so nothing is lost when MLflow
is away, and what was not sent can be sent later. A thread of its own sends: training neither
waits for MLflow nor hears of its failures.
"""

import math
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from superres.model.bundle import (Bundle, load_bundle)
from superres.common.console import say
from superres.common.errors import SharplineError
from training.runs.spool import Spool

EXPERIMENT = "sharpline"
# Tags that MLflow's pages know: a run's description, and the run that it is shown under.
DESCRIPTION_TAG, PARENT_TAG = "mlflow.note.content", "mlflow.parentRunId"
RUN_TAG, PARENT_NAME_TAG = "sharpline_run", "sharpline_parent"
# How a registered version holds its bundle; release.registry writes it so.
BUNDLE_TAG, BUNDLE_PATH = "bundle_id", "bundle"
BATCH_METRICS, BATCH_PARAMETERS = 1000, 100  # MLflow's limits for one call
LONGEST_PAUSE_SECONDS = 30.0
CLOSE_WAIT_SECONDS = 20.0
LAST_TRIES, LAST_PAUSE_SECONDS = 3, 1.0
# mlflow's client waits minutes by default; the sender has its own patience.
CLIENT_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNotes:
    """What a run is, told once at its start. `parent_run` names the run that it stands under."""

    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    dataset_id: str
    dataset_source: str
    parent_run: str | None = None


class Remote(Protocol):
    """Where notes end up. Every call may raise anything; it is made again later."""

    def start(self, note: Mapping[str, Any], run_id: str | None) -> str:
        """Open a run, or go on with `run_id`; return its id."""
        ...

    def take(self, run_id: str, note: Mapping[str, Any], folder: Path) -> None:
        """Take one note; paths in it are relative to `folder`. Taking it twice changes nothing."""
        ...


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
    """Takes notes for one run and sends them from a thread; without a remote it only keeps them.

    `machine` tells what the process takes of its machine, or nothing when it is not time yet.
    """

    def __init__(
        self,
        folder: Path,
        connect: Callable[[], Remote] | None,
        clock_ms: Callable[[], int] = lambda: int(time.time() * 1000),
        machine: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._spool, self._connect, self._clock_ms = Spool(folder), connect, clock_ms
        self._machine = machine
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
                "parent_run": notes.parent_run,
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
        every = {**values, **self._machine()}
        finite = {name: value for name, value in every.items() if math.isfinite(value)}
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
        if self._spool.waiting:
            say(f"{self._spool.waiting} notes of this run are lost: no space for them")
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
        self._client = _client(uri)

    def start(self, note: Mapping[str, Any], run_id: str | None) -> str:
        """Open a run of the project's experiment; its key makes opening it twice harmless."""
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        experiment_id = self._experiment_id()
        known = self._runs(experiment_id, RUN_TAG, note["key"])
        if known and known[0].data.params:
            return known[0].info.run_id
        run = known[0] if known else self._open(experiment_id, note)
        self._describe(run.info.run_id, note)
        return run.info.run_id

    def _open(self, experiment_id: str, note: Mapping[str, Any]) -> Any:
        tags = {**note["tags"], RUN_TAG: note["key"]}
        if note.get("parent_run"):
            tags[PARENT_TAG] = self._parent(experiment_id, note["parent_run"], note["time_ms"])
        return self._client.create_run(
            experiment_id, start_time=note["time_ms"], run_name=note["name"], tags=tags
        )

    def _parent(self, experiment_id: str, name: str, time_ms: int) -> str:
        """The run of that name, opened by whichever of its children comes first.

        Two that come at once both open one; the older stays, and both see the same two.
        """
        own: str | None = None
        if not self._runs(experiment_id, PARENT_NAME_TAG, name):
            own = self._client.create_run(
                experiment_id, start_time=time_ms, run_name=name, tags={PARENT_NAME_TAG: name}
            ).info.run_id
        parent = min(
            self._runs(experiment_id, PARENT_NAME_TAG, name),
            key=lambda run: (run.info.start_time, run.info.run_id),
        ).info.run_id
        if own not in (None, parent):
            self._client.delete_run(own)
        self._client.update_run(parent, status="RUNNING")
        return parent

    def _end_parent(self, run_id: str, time_ms: int) -> None:
        """End the run above this one, once none of its children is running."""
        run = self._client.get_run(run_id)
        parent = run.data.tags.get(PARENT_TAG)
        if parent is None:
            return
        siblings = self._runs(run.info.experiment_id, PARENT_TAG, parent, most=1000)
        states = {sibling.info.status for sibling in siblings}
        if "RUNNING" not in states:
            status = "FAILED" if "FAILED" in states else "FINISHED"
            self._client.set_terminated(parent, status=status, end_time=time_ms)

    def _runs(self, experiment_id: str, tag: str, value: str, most: int = 50) -> Any:
        # Backslashes and quotes would need MLflow's filter language to know escapes; it does not.
        return self._client.search_runs(
            [experiment_id], filter_string=f"tags.`{tag}` = '{value}'", max_results=most
        )

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
            self._end_parent(run_id, note["time_ms"])

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
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        dataset = Dataset(
            name=note["dataset_source"],
            digest=note["dataset_id"],
            source_type="sharpline",
            source=note["dataset_source"],
        )
        context = InputTag(key="mlflow.data.context", value="training")
        self._client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=[context])])
        # Parameters come last: a run that has some has been told everything.
        parameters = [Param(key, value) for key, value in note["parameters"].items()]
        for some in _batches(parameters, BATCH_PARAMETERS):
            self._client.log_batch(run_id, params=some)

    def _metrics(self, run_id: str, note: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, note["time_ms"], note["step"])
            for key, value in note["values"].items()
        ]
        for some in _batches(metrics, BATCH_METRICS):
            self._client.log_batch(run_id, metrics=some)


def fetch_bundle(uri: str, name: str, alias: str, folder: Path) -> Bundle:
    """The bundle behind an alias of the registry, verified, in a folder of its id under `folder`.

    Raises SharplineError where the registry does not answer, has no such model or alias, or sends
    other bytes than the version stands for.
    """
    from mlflow.exceptions import MlflowException

    client = _client(uri)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        version = client.get_model_version_by_alias(name, alias)
        expected = version.tags.get(BUNDLE_TAG, "")
        if not re.fullmatch("[0-9a-f]{64}", expected):
            raise SharplineError(f"{name}@{alias} of the registry at {uri} holds no bundle")
        final = folder / expected
        if not final.is_dir():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                path = Path(client.download_artifacts(version.run_id, BUNDLE_PATH, scratch))
                if load_bundle(path).id != expected:
                    raise SharplineError(
                        f"the registry at {uri} sent another bundle than {name}@{alias} stands for"
                    )
                with suppress(OSError):  # another training was quicker
                    path.rename(final)
    except (MlflowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SharplineError(
            f"{name}@{alias} cannot be had from the registry at {uri} ({reason})"
        ) from error
    return load_bundle(final)


def _client(uri: str) -> Any:
    for name, value in CLIENT_LIMITS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


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
