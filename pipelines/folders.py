"""Watched folders: their content, and when it has settled (is no longer being copied)."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderContent:
    """A snapshot of a watched source's folder listing."""

    source: str
    folder: Path
    files: int
    digest: str  # over names, sizes and modification times

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
    """Tracks for how long each content has been unchanged."""

    settle_seconds: float
    since: dict[str, float] = field(default_factory=dict)  # key: first seen, monotonic seconds

    def settled(self, contents: list[FolderContent], now: float) -> list[FolderContent]:
        """The contents that were the same in every poll for `settle_seconds`."""
        self.since = {content.key: self.since.get(content.key, now) for content in contents}
        return [
            content for content in contents if now - self.since[content.key] >= self.settle_seconds
        ]


def watched_contents(state: Path) -> list[FolderContent]:
    """The content of every watched source of a state folder, without empty or missing folders.

    Reads listings only, never a picture, so it is cheap enough to poll.
    """
    return [
        content
        for source, folders in sorted(_watched(state).items())
        if (content := _content(source, folders)).files
    ]


def _watched(state: Path) -> Mapping[str, list[Path]]:
    """The folders of the sources that were added with --watch, by the source's name.

    A source with paired low-resolution pictures has two.
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


def _content(source: str, folders: list[Path]) -> FolderContent:
    files = [entry for folder in folders for entry in sorted(_listing(folder))]
    digest = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
    return FolderContent(source=source, folder=folders[0], files=len(files), digest=digest)


def _listing(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and modification time of each file directly in the folder, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_file():
                    stat = entry.stat()
                    yield entry.name, stat.st_size, stat.st_mtime_ns
    except OSError as error:
        log.warning("%s cannot be listed: %s", folder, error.strerror)
