"""Notes on a training: first to a file of the run, from there to MLflow.

Every note is in the run's spool before anything else happens to it, so nothing is lost when MLflow
is away, and what was not sent can be sent later. A thread of its own sends: training neither
waits for MLflow nor hears of its failures.
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

LONGEST_PAUSE_SECONDS = 30.0
CLOSE_WAIT_SECONDS = 20.0
LAST_TRIES, LAST_PAUSE_SECONDS = 3, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetadata:
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

    def start(self, notes: RunMetadata) -> None:
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


@contextmanager
def tracked(tracker: Tracker, notes: RunMetadata) -> Iterator[Tracker]:
    """Open the run, and end it as FINISHED, or as FAILED where the block raises."""
    tracker.start(notes)
    try:
        yield tracker
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FINISHED")
