"""The notes of a run as lines of its `tracking.jsonl`, and how many of them have been sent."""

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
    """The notes of one run on disk, and how far they have been sent.

    Notes that the disk has no space for wait in memory and are written with the next one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._whole = False  # whether the file is known to end with a whole line

    def append(self, note: Mapping[str, Any]) -> None:
        """Add one note. Cheap: one write to an appended file."""
        with self._lock:
            self._waiting.append(json.dumps(note, allow_nan=False) + "\n")
            try:
                self._write()
            except OSError as error:
                if len(self._waiting) == 1:
                    say(f"cannot write notes to {self.folder} ({error.strerror}); they wait")
                return
            self._waiting.clear()

    @property
    def waiting(self) -> int:
        """How many notes are not on disk yet."""
        return len(self._waiting)

    def _write(self) -> None:
        """Write what waits, all of it or nothing; first take away what a crash left of a line."""
        with (self.folder / SPOOL_NAME).open("ab+", buffering=0) as file:
            if not self._whole:
                file.truncate(_end_of_last_line(file))
                self._whole = True
            before = file.seek(0, os.SEEK_END)
            data = "".join(self._waiting).encode()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(before)
                raise

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


def _end_of_last_line(file: FileIO) -> int:
    """The offset after the last line end of a file; a line is far shorter than TAIL_BYTES."""
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, end - TAIL_BYTES))
    return start + file.read().rfind(b"\n") + 1 if end else 0
