"""Experiment tracking: records go to the run's spool, and from there to MLflow.

Every record is spooled first, so nothing is lost while MLflow is unavailable; unsent records can be
sent later. A background thread sends them: MLflow neither delays nor fails a training.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from superres.common.console import say
from training.runs.spool import Spool

MAX_PAUSE_SECONDS = 30.0
CLOSE_WAIT_SECONDS = 20.0
CLOSE_TRIES, CLOSE_PAUSE_SECONDS = 3, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetadata:
    """Name, parameters and tags of a run; `parent_run` is the name of its parent run."""

    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    dataset_id: str
    dataset_source: str
    parent_run: str | None = None


class Remote(Protocol):
    """A tracking server. Every call may raise any exception and is retried later."""

    def start(self, record: Mapping[str, Any], run_id: str | None) -> str:
        """Create a run, or resume `run_id`; return its id."""
        ...

    def log_record(self, run_id: str, record: Mapping[str, Any], folder: Path) -> None:
        """Log one record; its paths are relative to `folder`. Must be idempotent."""
        ...


def send(spool: Spool, remote: Remote) -> int:
    """Send all unsent records in order; return their number. Raises what the remote raises."""
    sent = 0
    run_id = spool.run_id
    for record, offset in spool.unsent():
        if record["note"] == "run":
            run_id = remote.start(record, run_id)
        else:
            assert run_id is not None, "the first record of a spool starts the run"
            remote.log_record(run_id, record, spool.folder)
        spool.mark_sent(offset, run_id)
        sent += 1
    return sent


class Tracker:
    """Spools the records of one run and sends them from a thread; without a remote it only spools.

    `machine` returns resource metrics, or an empty dict between samples.
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
        self._wake, self._closing = threading.Event(), threading.Event()
        self._sent = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self, metadata: RunMetadata) -> None:
        """Start the run, or resume the one recorded in the folder."""
        self._append(
            {
                "note": "run",
                "name": metadata.name,
                "parameters": dict(metadata.parameters),
                "tags": dict(metadata.tags),
                "dataset_id": metadata.dataset_id,
                "dataset_source": metadata.dataset_source,
                "parent_run": metadata.parent_run,
                "key": self._spool.folder.name,
            }
        )
        if self._connect is not None:
            self._thread = threading.Thread(
                target=self._send_until_closed, name="tracking", daemon=True
            )
            self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of one step; non-finite ones (PSNR of equal pictures) are dropped."""
        combined = {**values, **self._machine()}
        finite = {name: value for name, value in combined.items() if math.isfinite(value)}
        self._append({"note": "metrics", "step": step, "values": finite})

    def artifacts(self, path: Path, to: str) -> None:
        """Log a file or folder inside the run's folder under the artifact path `to`."""
        self._append(
            {"note": "artifacts", "to": to, "path": str(path.relative_to(self._spool.folder))}
        )

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._append({"note": "tags", "values": dict(values)})

    def run_id(self, wait_seconds: float = 0.0) -> str | None:
        """MLflow's id of the run; waits up to `wait_seconds` for it."""
        if self._thread is None:
            return self._spool.run_id
        with self._sent:
            self._sent.wait_for(lambda: self._spool.run_id is not None, timeout=wait_seconds)
        return self._spool.run_id

    def close(self, status: str) -> None:
        """End the run as FINISHED or FAILED, flush for a limited time, and log unsent records."""
        self._append({"note": "end", "status": status})
        if self._spool.unwritten:
            say(f"{self._spool.unwritten} records of this run are lost: no disk space")
        if self._thread is None:
            return
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_WAIT_SECONDS)
        unsent = sum(1 for _ in self._spool.unsent())
        if unsent:
            say(
                f"{unsent} records of this run were not sent to MLflow. Send them with: "
                f"sharpline train --replay {self._spool.folder}"
            )

    def _append(self, record: dict[str, Any]) -> None:
        self._spool.append(record | {"time_ms": self._clock_ms()})
        self._wake.set()

    def _send_until_closed(self) -> None:
        assert self._connect is not None
        remote: Remote | None = None
        pause_seconds, warned, close_tries = 1.0, False, 0
        while close_tries < CLOSE_TRIES:
            self._wake.wait()
            self._wake.clear()
            # Read before sending, so that all records appended before closing are sent.
            closing = self._closing.is_set()
            try:
                remote = remote or self._connect()
                send(self._spool, remote)
            except Exception as error:
                # Training continues whatever the server does; the records stay in the spool.
                if not warned:
                    say(
                        f"MLflow is unavailable ({type(error).__name__}); training continues, "
                        "records are spooled"
                    )
                warned, close_tries = True, close_tries + closing
                if closing:
                    time.sleep(CLOSE_PAUSE_SECONDS)
                else:
                    self._closing.wait(pause_seconds)
                pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)
                self._wake.set()
                continue
            pause_seconds = 1.0
            with self._sent:
                self._sent.notify_all()
            if closing:
                return


@contextmanager
def tracked(tracker: Tracker, metadata: RunMetadata) -> Iterator[Tracker]:
    """Start the run, and end it as FINISHED, or as FAILED if the block raises."""
    tracker.start(metadata)
    try:
        yield tracker
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FINISHED")
