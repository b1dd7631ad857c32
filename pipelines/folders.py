"""Watched folders: where people drop pictures, and when what they dropped has come to rest."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a watched source's folder holds at one moment."""

    source: str
    folder: Path
    files: int
    digest: str  # over names, sizes and times of change

    @property
    def key(self) -> str:
        return f"{self.source}@{self.digest}"

    def as_dict(self) -> dict[str, str | int]:
        return {
            "key": self.key,
            "source": self.source,
            "folder": str(self.folder),
            "files": self.files,
        }


@dataclass(slots=True, kw_only=True)
class SettledContent:
    """Tells contents that have not changed for a while from those being copied right now."""

    settle_seconds: float
    since: dict[str, float] = field(default_factory=dict)  # key: first seen, monotonic seconds

    def settled(self, contents: list[Content], now: float) -> list[Content]:
        """Those that were the same for `settle_seconds`, at every look in between."""
        self.since = {content.key: self.since.get(content.key, now) for content in contents}
        return [one for one in contents if now - self.since[one.key] >= self.settle_seconds]


def watched_contents(state: Path) -> list[Content]:
    """The content of every watched source of a state folder; one that is empty or away is left out.

    Reads as much as a listing tells, never a picture, so it is cheap enough to be asked often.
    """
    return [
        content
        for source, folders in sorted(_watched(state).items())
        if (content := _content(source, folders)).files
    ]


def _watched(state: Path) -> Mapping[str, list[Path]]:
    """The folders of the sources that were added with --watch, by the source's name.

    There are two where a source brings its own low-resolution pictures.
    """
    watched = {}
    for path in (state / "sources").glob("*/source.json"):
        try:
            entry = json.loads(path.read_bytes())
            if isinstance(entry, dict) and entry.get("watched"):
                folders = (entry["folder"], entry["lr_folder"])
                watched[path.parent.name] = [Path(folder) for folder in folders if folder]
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s); this source is not watched", path, error)
    return watched


def _content(source: str, folders: list[Path]) -> Content:
    found = [entry for folder in folders for entry in sorted(_listing(folder))]
    digest = hashlib.sha256(repr(found).encode()).hexdigest()[:16]
    return Content(source=source, folder=folders[0], files=len(found), digest=digest)


def _listing(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of change of each file directly in the folder, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_file():
                    found = entry.stat()
                    yield entry.name, found.st_size, found.st_mtime_ns
    except OSError as error:
        log.warning("%s cannot be listed: %s", folder, error.strerror)
