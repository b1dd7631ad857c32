"""Enhances the pictures of a folder with a server; an interrupted run can be resumed.

The ledger in the target folder records which output belongs to which input. An entry is written
before its output, with the output's hash: a picture is done when both exist and match, even after a
kill in between. Files are written atomically.
"""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sharpline.client.http import AsyncClient
from sharpline.client.types import EnhanceOptions, RequestRefused
from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes, sha256_file, translate_write_errors, write_bytes
from superres.image.codecs import SUFFIX_FORMATS
from superres.image.targets import PlannedFile, plan_files

LEDGER = ".sharpline-ledger.jsonl"
FATAL = frozenset({401, 403})  # these would fail for every picture


class LedgerEntry(BaseModel):
    """One output: file name, input and options, and its hash."""

    model_config = ConfigDict(frozen=True)

    target: str
    source_sha256: str
    options: dict[str, str]
    target_sha256: str


@dataclass(slots=True)
class FolderReport:
    """Outputs written by this run, those of earlier runs, and failures with their reasons."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Ledger:
    """The outputs so far; a truncated last line is ignored."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER
        self._entries: dict[str, LedgerEntry] = {}
        self._written: set[tuple[str, str]] = set()  # (name, sha256) of all outputs ever written
        if self._path.is_file():
            for text in self._path.read_bytes().splitlines():
                try:
                    entry = LedgerEntry.model_validate_json(text)
                except ValidationError:
                    continue
                self._record(entry)

    def wrote(self, target: Path) -> bool:
        """Whether this command wrote the file."""
        return (target.name, sha256_file(target)) in self._written

    def is_done(self, target: Path, source_sha256: str, options: dict[str, str]) -> bool:
        """Whether the file is the output of this input with these options."""
        entry = self._entries.get(target.name)
        if entry is None or (entry.source_sha256, entry.options) != (source_sha256, options):
            return False
        return target.is_file() and sha256_file(target) == entry.target_sha256

    def add(self, entry: LedgerEntry) -> None:
        """Append an entry and sync it to disk."""
        self._record(entry)
        with translate_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                # A truncated last line must not be continued.
                truncated = file.tell() and not self._path.read_bytes().endswith(b"\n")
                text = json.dumps(entry.model_dump(), sort_keys=True)
                file.write(b"\n" * bool(truncated) + text.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

    def _record(self, entry: LedgerEntry) -> None:
        self._entries[entry.target] = entry
        self._written.add((entry.target, entry.target_sha256))


async def enhance_folder(
    client: AsyncClient,
    inputs: Sequence[Path],
    out: Path,
    options: EnhanceOptions | None = None,
    *,
    workers: int = 4,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> FolderReport:
    """Enlarge files and the pictures of folders into `out`, `workers` at a time.

    Pictures that the ledger of `out` lists as done are skipped. A bad picture does not stop the
    others; an unavailable server or a refused key does. `on_progress` is called with the numbers of
    finished pictures and of all pictures. Raises SharplineError, also for files in `out` that this
    command did not write, unless `overwrite`.
    """
    options = options or EnhanceOptions()
    files = plan_files(inputs, out, options.format, overwrite=True)
    ledger = Ledger(out)
    if not overwrite:
        for file in files:
            if file.target.exists() and not ledger.wrote(file.target):
                raise SharplineError(
                    f"{file.target} exists and was not written by this command; use --overwrite "
                    "to replace it"
                )
    report = FolderReport()
    waiting = list(reversed(files))

    async def work() -> None:
        while waiting:
            await _enhance_file(client, waiting.pop(), options, ledger, report)
            finished = len(report.written) + len(report.skipped) + len(report.failed)
            on_progress(finished, len(files))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, len(files))):
                group.create_task(work())
    except* SharplineError as group_error:
        raise group_error.exceptions[0] from None
    return report


async def _enhance_file(
    client: AsyncClient,
    file: PlannedFile,
    options: EnhanceOptions,
    ledger: Ledger,
    report: FolderReport,
) -> None:
    """Raises ServerUnavailable, or RequestRefused if every picture would be refused."""
    query = {**options.query(), "format": SUFFIX_FORMATS[file.target.suffix.lower()]}
    try:
        data = await asyncio.to_thread(file.source.read_bytes)
    except OSError as error:
        report.failed[str(file.source)] = f"cannot read it: {error.strerror}"
        return
    source_sha256 = sha256_bytes(data)
    if await asyncio.to_thread(ledger.is_done, file.target, source_sha256, query):
        report.skipped.append(file.target)
        return
    try:
        enhanced = await client.enhance(data, options.with_format(query["format"]))
    except RequestRefused as error:
        if error.status in FATAL:
            raise
        report.failed[str(file.source)] = str(error)
        return
    ledger.add(
        LedgerEntry(
            target=file.target.name,
            source_sha256=source_sha256,
            options=query,
            target_sha256=sha256_bytes(enhanced.data),
        )
    )
    await asyncio.to_thread(write_bytes, file.target, enhanced.data)
    report.written.append(file.target)
