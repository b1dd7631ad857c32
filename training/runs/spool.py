"""The tracking records of a run as lines of its `tracking.jsonl`, and the offset sent so far."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from superres.common.console import say
from superres.common.files import write_json

SPOOL_NAME, SENT_NAME = "tracking.jsonl", "tracking-sent.json"
TAIL_BYTES = 1 << 20


class Spool:
    """A disk queue of one run's tracking records for MLflow.

    If the disk is full, records are buffered in memory and written with the next one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._unwritten: list[str] = []
        self._tail_checked = False  # whether the file ends with a complete line

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record; a single write."""
        with self._lock:
            self._unwritten.append(json.dumps(record, allow_nan=False) + "\n")
            try:
                self._write()
            except OSError as error:
                if len(self._unwritten) == 1:
                    say(f"cannot write to {self.folder} ({error.strerror}); buffering records")
                return
            self._unwritten.clear()

    @property
    def unwritten(self) -> int:
        """The number of records that are not on disk yet."""
        return len(self._unwritten)

    def _write(self) -> None:
        """Write the buffered records, all or none; first truncate a line torn by a crash."""
        with (self.folder / SPOOL_NAME).open("ab+", buffering=0) as file:
            if not self._tail_checked:
                file.truncate(_end_of_last_line(file))
                self._tail_checked = True
            before = file.seek(0, os.SEEK_END)
            data = "".join(self._unwritten).encode()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(before)
                raise

    def unsent(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The unsent records, each with the offset after it. An incomplete last line is skipped."""
        path = self.folder / SPOOL_NAME
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self.sent_bytes)
            while (line := file.readline()).endswith(b"\n"):
                yield json.loads(line), file.tell()

    @property
    def sent_bytes(self) -> int:
        """The number of bytes of the file that have been sent."""
        return self._sent()["bytes"]

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once it has one."""
        return self._sent()["run_id"]

    def mark_sent(self, offset: int, run_id: str | None) -> None:
        """Record that everything before `offset` has been sent."""
        write_json(self.folder / SENT_NAME, {"bytes": offset, "run_id": run_id})

    def _sent(self) -> dict[str, Any]:
        path = self.folder / SENT_NAME
        return json.loads(path.read_bytes()) if path.is_file() else {"bytes": 0, "run_id": None}


def _end_of_last_line(file: FileIO) -> int:
    """The offset after the last line break of a file; lines are shorter than TAIL_BYTES."""
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, end - TAIL_BYTES))
    return start + file.read().rfind(b"\n") + 1 if end else 0
