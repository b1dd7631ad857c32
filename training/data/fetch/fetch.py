"""Fetches a source of the catalogue: download, verify, unpack, record.

A part's pictures appear by one rename and are recorded after it. What a killed run left is resumed
(downloads) or removed (half-unpacked folders).
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from superres.common.console import say
from superres.common.errors import SharplineError, UsageError
from superres.common.files import file_lock, remove_abandoned, staged_folder
from training.data.fetch.download import ArchiveMismatch, NoMirrorLeft, download, verify
from training.data.fetch.transfer import RetryPolicy
from training.data.fetch.unpack import BadArchive, Unpacked, unpack
from training.data.sources.catalogue import read_catalogue
from training.data.sources.entries import HR, Archive, Copy, Entry, Part
from training.data.sources.records import (
    FetchedArchive,
    FetchedPart,
    FetchedSource,
    now,
    read_record,
    sources_folder,
    write_record,
)

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DOWNLOADS = "downloads"


class ArchiveNotFound(SharplineError):
    """The folder named by --from does not hold the archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """The source's record after a fetch, and the downloaded parts as SPLIT/PART."""

    record: FetchedSource
    downloaded: list[str]


def fetch(
    name: str,
    *,
    parts: Sequence[str] = (HR,),
    origin: str | None = None,
    retry_policy: RetryPolicy | None = None,
) -> FetchReport:
    """Fetch parts of the source `name`; parts that are already here are not fetched again.

    `origin` is a mirror's URL, a folder with the archives, or one archive (a URL or a file); it is
    verified like any other. Raises UsageError on an unknown source or part, SharplineError where
    another process fetches the same source or no copy of a part is available.
    """
    entry = _entry(name)
    chosen = _parts_in(origin, entry.choose(parts))
    folder = sources_folder() / entry.name
    with file_lock(folder / ".lock"):
        _remove_leftovers(entry, folder)
        fetcher = Fetcher(entry, folder, origin, retry_policy or RetryPolicy())
        pending = [part for part in chosen if not fetcher.has(part)]
        downloaded: list[str] = []
        if pending:
            say(f"{entry.title} ({entry.conditions})")
        while pending:
            done = fetcher.download_part(pending[0], pending)
            downloaded += [f"{part.split}/{part.name}" for part in done]
            pending = [part for part in pending if part not in done]
        # All requested parts are unpacked.
        shutil.rmtree(folder / DOWNLOADS, ignore_errors=True)
    assert fetcher.record is not None
    return FetchReport(record=fetcher.record, downloaded=downloaded)


class Fetcher:
    """Fetches the parts of one source, while this process holds the source's lock."""

    def __init__(
        self, entry: Entry, folder: Path, origin: str | None, retry_policy: RetryPolicy
    ) -> None:
        self._entry, self._source_folder = entry, folder
        self._origin, self._retry_policy = origin, retry_policy
        record = read_record(entry.name)
        self.record = record if isinstance(record, FetchedSource) else None

    def has(self, part: Part) -> bool:
        """Whether all pictures of a part are here."""
        recorded = self.record.find(part.name, part.split) if self.record else None
        if recorded is None:
            return False
        folder = sources_folder() / recorded.folder
        return folder.is_dir() and sum(1 for _ in folder.iterdir()) == recorded.pictures

    def download_part(self, part: Part, pending: Sequence[Part]) -> list[Part]:
        """Fetch a part, and with it the pending parts in the same archives.

        Raises SharplineError with each copy's error where every copy failed.
        """
        failures: list[str] = []
        for copy in part.copies:
            try:
                archives = [self._get_archive(archive) for archive in copy.archives]
                contained = {other: same for other in pending if (same := _same_copy(other, copy))}
                self._unpack(archives, contained)
            except (ArchiveNotFound, NoMirrorLeft, BadArchive, ArchiveMismatch) as error:
                failures.append(str(error))
            else:
                return list(contained)
        raise SharplineError(
            f"{part.split}/{part.name} of {self._entry.name} is not available:\n"
            + "\n".join(failures)
            + "\nTry again later (the download resumes), or get an archive by other means and "
            "give it by --from FILE"
        )

    def _get_archive(self, archive: Archive) -> tuple[Path, FetchedArchive]:
        """The path of the verified archive, downloaded or local, and its record."""
        known = self._known_sha256(archive.name)
        if self._origin is None:
            urls = archive.mirrors
        elif _is_url(self._origin):
            urls = (_archive_url(self._origin, archive),)
        else:
            path = _local_archive(Path(self._origin), archive)
            return path, verify(path, archive, known, path.resolve().as_uri())
        folder = self._source_folder / DOWNLOADS
        checked = download(
            archive, urls, folder, known_sha256=known, retry_policy=self._retry_policy
        )
        return folder / archive.name, checked

    def _known_sha256(self, archive_name: str) -> str | None:
        """The recorded checksum of an archive that was fetched before."""
        parts = self.record.parts if self.record else []
        known = {archive.name: archive.sha256 for part in parts for archive in part.archives}
        return known.get(archive_name)

    def _unpack(
        self, archives: Sequence[tuple[Path, FetchedArchive]], contained: dict[Part, Copy]
    ) -> None:
        """Unpack parts of the same archives, each by one rename, and record them."""
        paths = [path for path, _ in archives]
        checked = [archive for _, archive in archives]
        recorded = []
        with ExitStack() as stack:
            targets = {
                copy.folder: stack.enter_context(staged_folder(self._folder(part)))
                for part, copy in contained.items()
            }
            try:
                unpacked = unpack(paths, targets)
                for part, copy in contained.items():
                    _require_complete(part, copy, unpacked[copy.folder])
            except BadArchive:
                self._discard(paths)
                raise
            for part, copy in contained.items():
                recorded.append(self._describe(part, unpacked[copy.folder], checked))
        self._record(recorded)
        self._discard(paths)

    def _describe(
        self, part: Part, unpacked: Unpacked, archives: list[FetchedArchive]
    ) -> FetchedPart:
        return FetchedPart(
            part=part.name,
            split=part.split,
            folder=str(self._folder(part).relative_to(sources_folder())),
            pictures=len(unpacked.pictures),
            bytes=unpacked.bytes,
            content_sha256=unpacked.content_sha256,
            archives=archives,
            at=now(),
        )

    def _record(self, parts: Sequence[FetchedPart]) -> None:
        new = {(part.part, part.split) for part in parts}
        before = self.record.parts if self.record else []
        kept = [part for part in before if (part.part, part.split) not in new]
        self.record = FetchedSource(
            name=self._entry.name,
            role=self._entry.role,
            licence=self._entry.licence,
            conditions=self._entry.conditions,
            authors=self._entry.authors,
            parts=sorted([*kept, *parts], key=lambda part: part.folder),
        )
        write_record(self.record)

    def _folder(self, part: Part) -> Path:
        return self._source_folder / part.split / part.name

    def _discard(self, archives: Sequence[Path]) -> None:
        """Delete downloaded archives; files that the user provided stay."""
        for path in archives:
            if path.parent == self._source_folder / DOWNLOADS:
                path.unlink(missing_ok=True)


def _entry(name: str) -> Entry:
    catalogue = read_catalogue()
    if name not in catalogue:
        raise UsageError(
            f"the catalogue has no {name!r}; it has {', '.join(catalogue)}. Add your own pictures "
            "with `sharpline data add`; `sample` needs no fetch"
        )
    return catalogue[name]


def _same_copy(part: Part, copy: Copy) -> Copy | None:
    """The copy of `part` that is in the archives of `copy`, if there is one."""
    return next((same for same in part.copies if same.archives == copy.archives), None)


def _require_complete(part: Part, copy: Copy, unpacked: Unpacked) -> None:
    count = len(unpacked.pictures)
    if not count or part.pictures not in (None, count):
        raise BadArchive(
            f"{copy.archives[0].name} holds {count} pictures in {copy.folder} instead of "
            f"{part.pictures or 'some'}: it is not the expected archive"
        )
    if copy.pictures_md5 not in (None, unpacked.pictures_md5):
        raise BadArchive(
            f"the pictures of {copy.archives[0].name} have the md5 {unpacked.pictures_md5}, the "
            f"published one is {copy.pictures_md5}"
        )


def _parts_in(origin: str | None, parts: Sequence[Part]) -> list[Part]:
    """The parts that `origin` can hold: if it is one archive, those in it, otherwise all."""
    name = "" if origin is None else _file_name(origin)
    if not name.lower().endswith(ARCHIVE_SUFFIXES):
        return list(parts)
    single_archives = {
        part: {c.archives[0].name for c in part.copies if len(c.archives) == 1} for part in parts
    }
    contained = [part for part in parts if name in single_archives[part]]
    if not contained:
        names = sorted(set().union(*single_archives.values()))
        raise UsageError(
            f"--from {name}: no requested part is in a single archive of that name; "
            f"it may be {', '.join(names) or 'a folder of archives'}"
        )
    return contained


def _file_name(origin: str) -> str:
    path = urlsplit(origin).path if _is_url(origin) else origin
    return path.rstrip("/").rpartition("/")[2]


def _is_url(origin: str) -> bool:
    return urlsplit(origin).scheme in ("http", "https")


def _archive_url(origin: str, archive: Archive) -> str:
    """The URL of an archive on the mirror `origin`, or `origin` itself if it is the archive."""
    return origin if _file_name(origin) == archive.name else f"{origin.rstrip('/')}/{archive.name}"


def _local_archive(origin: Path, archive: Archive) -> Path:
    """The path of an archive in the folder `origin`, or `origin` itself if it is the archive."""
    path = origin if origin.name == archive.name else origin / archive.name
    if not path.is_file():
        raise ArchiveNotFound(f"{path} is not there")
    return path


def _remove_leftovers(entry: Entry, folder: Path) -> None:
    """Remove the half-unpacked folders and half-written files of a killed run."""
    for part in entry.parts:
        remove_abandoned(folder / part.split / part.name)
    for file in folder.glob(".*.partial"):
        file.unlink()
