"""Downloads one archive over HTTP from the first working mirror, and verifies it."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from superres.common.console import say
from superres.common.errors import SharplineError
from superres.common.files import translate_write_errors
from training.data.fetch.transfer import MirrorFailed, RetryPolicy, Transfer, without_credentials
from training.data.sources.entries import Archive
from training.data.sources.records import FetchedArchive, VerifiedBy

CHUNK_BYTES = 1024**2
MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


class ArchiveMismatch(SharplineError):
    """The downloaded file is not the expected one."""


class NoMirrorLeft(SharplineError):
    """Every mirror failed."""


def download(
    archive: Archive,
    urls: Sequence[str],
    folder: Path,
    *,
    known_sha256: str | None,
    retry_policy: RetryPolicy,
) -> FetchedArchive:
    """Download `archive` into `folder`, from the first URL that serves it complete.

    A file that is already there is only verified. Raises NoMirrorLeft with the error of each URL.
    """
    target = folder / archive.name
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    if target.is_file():
        with suppress(ArchiveMismatch):
            return verify(target, archive, known_sha256, target.as_uri())
        target.unlink()
    timeout = httpx.Timeout(
        retry_policy.read_timeout_seconds, connect=retry_policy.connect_timeout_seconds
    )
    with httpx.Client(timeout=timeout, follow_redirects=True) as client:
        for url in urls:
            transfer = Transfer(client, url, archive, folder, retry_policy)
            try:
                return _from_mirror(transfer, target, known_sha256)
            except (MirrorFailed, ArchiveMismatch) as error:
                failures.append(f"{without_credentials(url)}: {error}")
                say(f"{failures[-1]}")
    raise NoMirrorLeft(
        f"no mirror served {archive.name}:\n  " + "\n  ".join(failures or ["it has none"])
    )


def _from_mirror(transfer: Transfer, target: Path, known_sha256: str | None) -> FetchedArchive:
    """Transfer, verify and rename the archive; a file that fails verification is discarded.

    If that download was resumed, it is tried once more from the start.
    """
    resumed = transfer.run()
    try:
        checked = verify(transfer.partial, transfer.archive, known_sha256, transfer.url)
    except ArchiveMismatch:
        transfer.discard()
        if not resumed:
            raise
        transfer.run()
        try:
            checked = verify(transfer.partial, transfer.archive, known_sha256, transfer.url)
        except ArchiveMismatch:
            transfer.discard()
            raise
    transfer.partial.replace(target)
    transfer.metadata_path.unlink(missing_ok=True)
    return checked


def verify(path: Path, archive: Archive, known_sha256: str | None, url: str) -> FetchedArchive:
    """The archive's checksum and how it was verified; raises ArchiveMismatch.

    Where no checksum is published, it must equal that of the first download, `known_sha256`.
    """
    size = path.stat().st_size
    if archive.bytes is not None and size != archive.bytes:
        raise ArchiveMismatch(f"{archive.name} is {size} bytes instead of {archive.bytes}")
    sha256, md5 = _digests(path)
    how: VerifiedBy
    if archive.sha256 is not None:
        how, actual, expected = "published sha256", sha256, archive.sha256
    elif archive.md5 is not None:
        how, actual, expected = "published md5", md5, archive.md5
    else:
        how, actual, expected = "first use", sha256, known_sha256 or sha256
    if actual != expected:
        before = "published" if how != "first use" else "first fetched"
        raise ArchiveMismatch(
            f"{archive.name} has the checksum {actual}, the {before} one is {expected}; the file "
            "is discarded"
        )
    if not _is_archive(path):
        raise ArchiveMismatch(f"{archive.name} is not an archive, perhaps an HTML page")
    return FetchedArchive(
        name=archive.name, bytes=size, sha256=sha256, verified=how, address=without_credentials(url)
    )


def _digests(path: Path) -> tuple[str, str]:
    """Hex sha256 and md5 in one pass."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            md5.update(chunk)
    return sha256.hexdigest(), md5.hexdigest()


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(512)
    return head.startswith(MAGIC) or head[257:262] == b"ustar"
