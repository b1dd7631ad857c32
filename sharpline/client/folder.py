"""A folder through the server, picture by picture, so that it can be stopped and gone on with.

The ledger in the target folder says which answer stands for which input. Its line is written before
the answer, with the answer's hash: a file is done when both are there and agree, whatever was
killed in between. Files appear whole or not at all.
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
from superres.common.files import sha256_bytes, sha256_file, write_bytes, writing
from superres.image.codecs import SUFFIX_FORMATS
from superres.image.targets import PlannedFile, plan_files

LEDGER = ".sharpline-ledger.jsonl"
FATAL = frozenset({401, 403})  # of every picture alike: there is no use in sending the others


class LedgerEntry(BaseModel):
    """One answer: the file's name, what it was made of, and what it holds."""

    model_config = ConfigDict(frozen=True)

    target: str
    source_sha256: str
    options: dict[str, str]
    target_sha256: str


@dataclass(slots=True)
class FolderReport:
    """Answers that were written now, those from before, and why other pictures failed."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Ledger:
    """What was done before; harmless where its last line was cut off."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER
        self._lines: dict[str, LedgerEntry] = {}
        self._ours: set[tuple[str, str]] = set()  # of every answer so far, also replaced ones
        if self._path.is_file():
            for text in self._path.read_bytes().splitlines():
                try:
                    line = LedgerEntry.model_validate_json(text)
                except ValidationError:
                    continue
                self._take(line)

    def knows(self, target: Path) -> bool:
        """Whether the file is an answer of ours, and not somebody's own picture."""
        return (target.name, sha256_file(target)) in self._ours

    def has(self, target: Path, source_sha256: str, options: dict[str, str]) -> bool:
        """Whether the file is the answer to this input and these wishes."""
        line = self._lines.get(target.name)
        if line is None or (line.source_sha256, line.options) != (source_sha256, options):
            return False
        return target.is_file() and sha256_file(target) == line.target_sha256

    def add(self, line: LedgerEntry) -> None:
        """Write a line and see that it is on the disk."""
        self._take(line)
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                # After a line that was cut off a new one must not begin in its middle.
                cut_off = file.tell() and not self._path.read_bytes().endswith(b"\n")
                text = json.dumps(line.model_dump(), sort_keys=True)
                file.write(b"\n" * bool(cut_off) + text.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

    def _take(self, line: LedgerEntry) -> None:
        self._lines[line.target] = line
        self._ours.add((line.target, line.target_sha256))


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

    What the ledger of `out` knows to be done is skipped. One bad picture does not stop the others,
    a server that is unavailable or a key that is refused does. `on_progress` gets the counts of
    finished pictures and of all. Raises SharplineError, also for files in `out` that this command
    did not write unless `overwrite`.
    """
    options = options or EnhanceOptions()
    files = plan_files(inputs, out, options.format, overwrite=True)
    ledger = Ledger(out)
    if not overwrite:
        for file in files:
            if file.target.exists() and not ledger.knows(file.target):
                raise SharplineError(
                    f"{file.target} is there already and was not made by this command; give "
                    "--overwrite to replace it"
                )
    report = FolderReport()
    waiting = list(reversed(files))

    async def work() -> None:
        while waiting:
            await _one(client, waiting.pop(), options, ledger, report)
            finished = len(report.written) + len(report.skipped) + len(report.failed)
            on_progress(finished, len(files))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, len(files))):
                group.create_task(work())
    except* SharplineError as group_error:
        raise group_error.exceptions[0] from None
    return report


async def _one(
    client: AsyncClient,
    file: PlannedFile,
    options: EnhanceOptions,
    ledger: Ledger,
    report: FolderReport,
) -> None:
    """Raises ServerAway, or Refused for what would be refused of every picture."""
    query = {**options.query(), "format": SUFFIX_FORMATS[file.target.suffix.lower()]}
    try:
        data = await asyncio.to_thread(file.source.read_bytes)
    except OSError as error:
        report.failed[str(file.source)] = f"cannot read it: {error.strerror}"
        return
    source_sha256 = sha256_bytes(data)
    if await asyncio.to_thread(ledger.has, file.target, source_sha256, query):
        report.skipped.append(file.target)
        return
    try:
        answer = await client.enhance(data, options.with_format(query["format"]))
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
            target_sha256=sha256_bytes(answer.data),
        )
    )
    await asyncio.to_thread(write_bytes, file.target, answer.data)
    report.written.append(file.target)
