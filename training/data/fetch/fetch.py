"""Bring a source of the catalogue here: download, verify, unpack, record.

A part's pictures appear by one rename and are recorded after it, and what a killed run left is
either gone on with (downloads) or thrown away (half-unpacked folders).
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


class NotOffered(SharplineError):
    """The place named by --from does not hold an archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """The source's record after a fetch, and what it brought: SPLIT/PART each."""

    record: FetchedSource
    downloaded: list[str]


def fetch(
    name: str,
    *,
    parts: Sequence[str] = (HR,),
    origin: str | None = None,
    retry_policy: RetryPolicy | None = None,
) -> FetchReport:
    """Bring parts of the source `name` here; those that are here already stay as they are.

    `origin` is a mirror's address, a folder that holds the archives, or one archive (an address or
    a file); it is verified like any other. Raises UsageError on a source or part that there is not,
    SharplineError where another process fetches the same source or no copy of a part is to be had.
    """
    entry = _entry(name)
    chosen = _held_by(origin, entry.choose(parts))
    home = sources_folder() / entry.name
    with file_lock(home / ".lock"):
        _sweep(entry, home)
        fetcher = Fetcher(entry, home, origin, retry_policy or RetryPolicy())
        pending = [part for part in chosen if not fetcher.has(part)]
        downloaded: list[str] = []
        if pending:
            say(f"{entry.title} ({entry.conditions})")
        while pending:
            done = fetcher.download_part(pending[0], pending)
            downloaded += [f"{part.split}/{part.name}" for part in done]
            pending = [part for part in pending if part not in done]
        # Nothing of a download is of use any more: what was asked for is here.
        shutil.rmtree(home / DOWNLOADS, ignore_errors=True)
    assert fetcher.record is not None
    return FetchReport(record=fetcher.record, downloaded=downloaded)


class Fetcher:
    """Brings the parts of one source, while this process holds the source's lock."""

    def __init__(
        self, entry: Entry, home: Path, origin: str | None, retry_policy: RetryPolicy
    ) -> None:
        self._entry, self._home, self._origin, self._retry_policy = (
            entry,
            home,
            origin,
            retry_policy,
        )
        record = read_record(entry.name)
        self.record = record if isinstance(record, FetchedSource) else None

    def has(self, part: Part) -> bool:
        """Whether all pictures of a part are here."""
        known = self.record.find(part.name, part.split) if self.record else None
        if known is None:
            return False
        folder = sources_folder() / known.folder
        return folder.is_dir() and sum(1 for _ in folder.iterdir()) == known.pictures

    def download_part(self, part: Part, pending: Sequence[Part]) -> list[Part]:
        """Bring a part, and with it those pending ones that lie in the same archives.

        Raises SharplineError where every copy failed, saying how.
        """
        failures: list[str] = []
        for copy in part.copies:
            try:
                archives = [self._obtain(archive) for archive in copy.archives]
                together = {one: same for one in pending if (same := _same_copy(one, copy))}
                self._unpack(archives, together)
            except (NotOffered, NoMirrorLeft, BadArchive, ArchiveMismatch) as error:
                failures.append(str(error))
            else:
                return list(together)
        raise SharplineError(
            f"{part.split}/{part.name} of {self._entry.name} is not to be had:\n"
            + "\n".join(failures)
            + "\nTry later (it goes on where it broke off), or get an archive by other means and "
            "say --from FILE"
        )

    def _obtain(self, archive: Archive) -> tuple[Path, FetchedArchive]:
        """The verified archive as a file of this machine."""
        known = self._known_sha256(archive)
        if self._origin is None:
            addresses = archive.mirrors
        elif _is_address(self._origin):
            addresses = (_address(self._origin, archive),)
        else:
            path = _local(Path(self._origin), archive)
            return path, verify(path, archive, known, path.resolve().as_uri())
        folder = self._home / DOWNLOADS
        checked = download(
            archive, addresses, folder, known_sha256=known, retry_policy=self._retry_policy
        )
        return folder / archive.name, checked

    def _known_sha256(self, archive: Archive) -> str | None:
        """What an archive without a published checksum had when it first came."""
        parts = self.record.parts if self.record else []
        known = {one.name: one.sha256 for part in parts for one in part.archives}
        return known.get(archive.name)

    def _unpack(
        self, archives: Sequence[tuple[Path, FetchedArchive]], together: dict[Part, Copy]
    ) -> None:
        """Unpack parts that lie in the same archives, each by one rename, and record them."""
        checked = [one for _, one in archives]
        paths = [path for path, _ in archives]
        recorded = []
        with ExitStack() as stack:
            targets = {
                copy.folder: stack.enter_context(staged_folder(self._folder(part)))
                for part, copy in together.items()
            }
            try:
                unpacked = unpack(paths, targets)
                for part, copy in together.items():
                    _require_whole(part, copy, unpacked[copy.folder])
            except BadArchive:
                self._discard(paths)
                raise
            for part, copy in together.items():
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
        return self._home / part.split / part.name

    def _discard(self, archives: Sequence[Path]) -> None:
        """Downloads have served once their pictures are here; a person's own files stay."""
        for path in archives:
            if path.parent == self._home / DOWNLOADS:
                path.unlink(missing_ok=True)


def _entry(name: str) -> Entry:
    catalogue = read_catalogue()
    if name not in catalogue:
        raise UsageError(
            f"the catalogue has no {name!r}; it has {', '.join(catalogue)}. Own pictures come in "
            "by `sharpline data add`, and `sample` is here already"
        )
    return catalogue[name]


def _same_copy(part: Part, copy: Copy) -> Copy | None:
    """The way to get `part` out of the archives of `copy`, if it lies in them."""
    return next((one for one in part.copies if one.archives == copy.archives), None)


def _require_whole(part: Part, copy: Copy, unpacked: Unpacked) -> None:
    found = len(unpacked.pictures)
    if not found or part.pictures not in (None, found):
        raise BadArchive(
            f"{copy.archives[0].name} holds {found} pictures in {copy.folder} instead of "
            f"{part.pictures or 'some'}: it is not the archive that it should be"
        )
    if copy.pictures_md5 not in (None, unpacked.pictures_md5):
        raise BadArchive(
            f"the pictures of {copy.archives[0].name} have the md5 {unpacked.pictures_md5}, the "
            f"published one is {copy.pictures_md5}"
        )


def _held_by(origin: str | None, parts: Sequence[Part]) -> list[Part]:
    """Of `parts` those that `origin` can hold: where it is one archive, those that lie in it."""
    name = "" if origin is None else _last_name(origin)
    if not name.lower().endswith(ARCHIVE_SUFFIXES):
        return list(parts)
    alone = {
        part: {c.archives[0].name for c in part.copies if len(c.archives) == 1} for part in parts
    }
    held = [part for part in parts if name in alone[part]]
    if not held:
        names = sorted(set().union(*alone.values()))
        raise UsageError(
            f"--from {name}: no part that is asked for comes in an archive of that name alone; "
            f"it may be {', '.join(names) or 'a folder of them'}"
        )
    return held


def _last_name(origin: str) -> str:
    path = urlsplit(origin).path if _is_address(origin) else origin
    return path.rstrip("/").rpartition("/")[2]


def _is_address(origin: str) -> bool:
    return urlsplit(origin).scheme in ("http", "https")


def _address(origin: str, archive: Archive) -> str:
    """Where an archive lies on the mirror `origin`, or `origin` itself where it is the archive."""
    return origin if _last_name(origin) == archive.name else f"{origin.rstrip('/')}/{archive.name}"


def _local(origin: Path, archive: Archive) -> Path:
    """An archive in the folder `origin`, or `origin` itself where it is that archive."""
    path = origin if origin.name == archive.name else origin / archive.name
    if not path.is_file():
        raise NotOffered(f"{path} is not there")
    return path


def _sweep(entry: Entry, home: Path) -> None:
    """Throw away what a killed run had unpacked or written half."""
    for part in entry.parts:
        remove_abandoned(home / part.split / part.name)
    for file in home.glob(".*.partial"):
        file.unlink()
