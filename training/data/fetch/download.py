"""One archive over HTTP: verified, from the first mirror that gives it whole."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from superres.common.console import say
from superres.common.errors import SharplineError
from superres.common.files import writing
from training.data.fetch.transfer import MirrorFailed, RetryPolicy, Transfer, shown
from training.data.sources.entries import Archive
from training.data.sources.records import FetchedArchive, Verified

PIECE_BYTES = 1024**2
MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


class ArchiveMismatch(SharplineError):
    """What came is not the file that it should be."""


class NoMirrorLeft(SharplineError):
    """Every mirror failed."""


def download(
    archive: Archive,
    addresses: Sequence[str],
    folder: Path,
    *,
    known_sha256: str | None,
    retry_policy: RetryPolicy,
) -> FetchedArchive:
    """Bring `archive` into `folder` under its name, from the first address that gives it whole.

    One that is there already is only verified. Raises NoMirrorLeft saying what each address did.
    """
    target = folder / archive.name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    if target.is_file():
        with suppress(ArchiveMismatch):
            return verify(target, archive, known_sha256, target.as_uri())
        target.unlink()
    timeout = httpx.Timeout(retry_policy.silence_seconds, connect=retry_policy.connect_seconds)
    with httpx.Client(timeout=timeout, follow_redirects=True) as client:
        for address in addresses:
            transfer = Transfer(client, address, archive, folder, retry_policy)
            try:
                return _from_mirror(transfer, target, known_sha256)
            except (MirrorFailed, ArchiveMismatch) as error:
                failures.append(f"{shown(address)}: {error}")
                say(f"{failures[-1]}")
    raise NoMirrorLeft(
        f"no mirror gave {archive.name}:\n  " + "\n  ".join(failures or ["it has none"])
    )


def _from_mirror(transfer: Transfer, target: Path, known_sha256: str | None) -> FetchedArchive:
    """Transfer, verify and give it its name; wrong bytes are thrown away.

    Where they were gathered in more than one go, the same mirror may give the right ones in one.
    """
    resumed = transfer.run()
    try:
        checked = verify(transfer.partial, transfer.archive, known_sha256, transfer.address)
    except ArchiveMismatch:
        transfer.forget()
        if not resumed:
            raise
        transfer.run()
        try:
            checked = verify(transfer.partial, transfer.archive, known_sha256, transfer.address)
        except ArchiveMismatch:
            transfer.forget()
            raise
    transfer.partial.replace(target)
    transfer.note.unlink(missing_ok=True)
    return checked


def verify(path: Path, archive: Archive, known_sha256: str | None, address: str) -> FetchedArchive:
    """The archive's checksum, and against what it was checked; raises WrongBytes.

    Where no checksum is published, it must be that of the first one that came, `known_sha256`.
    """
    size = path.stat().st_size
    if archive.bytes is not None and size != archive.bytes:
        raise ArchiveMismatch(f"{archive.name} is {size} bytes instead of {archive.bytes}")
    sha256, md5 = _digests(path)
    how: Verified
    if archive.sha256 is not None:
        how, found, expected = "published sha256", sha256, archive.sha256
    elif archive.md5 is not None:
        how, found, expected = "published md5", md5, archive.md5
    else:
        how, found, expected = "first use", sha256, known_sha256 or sha256
    if found != expected:
        before = "published" if how != "first use" else "first fetched"
        raise ArchiveMismatch(
            f"{archive.name} has the checksum {found}, the {before} one is {expected}: these are "
            "other bytes, so they are thrown away"
        )
    if not _is_archive(path):
        raise ArchiveMismatch(
            f"{archive.name} is no archive: a page, or something else by its name"
        )
    return FetchedArchive(
        name=archive.name, bytes=size, sha256=sha256, verified=how, address=shown(address)
    )


def _digests(path: Path) -> tuple[str, str]:
    """Hex sha256 and md5 in one pass."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            sha256.update(piece)
            md5.update(piece)
    return sha256.hexdigest(), md5.hexdigest()


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(512)
    return head.startswith(MAGIC) or head[257:262] == b"ustar"
