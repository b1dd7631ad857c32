"""Pictures that wait: blobs, streamed in and out, never whole in memory.

What a store does, and the one that is a folder; `serving.jobs.bucket` has the one on S3. In the
folder a blob is written under a temporary name, synced and renamed, so that one that has its name
is whole. The folder carries the mark of clients' pictures: training never reads it.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from serving.errors import JobGone, StorageFull
from serving.threads import in_thread
from superres.dataset.consent import MARKER, mark_as_clients

CHUNK_BYTES = 1 << 20
_BLOB = re.compile(r"[0-9a-f]{32}")
_KEPT = re.compile(r"\.?([0-9a-f]{32})(\.partial|\?.+)?")  # whole, or not finished
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class WrittenBlob:
    """What a blob came to be."""

    bytes: int
    sha256: str


class Store(Protocol):
    """Where blobs are kept; a blob's name is 32 hex digits that `new_blob` drew."""

    async def write(self, blob: str, chunks: AsyncIterator[bytes]) -> WrittenBlob:
        """Keep all chunks or nothing. Raises StorageFull, or what the chunks raise."""
        ...

    def read(self, blob: str) -> AsyncGenerator[bytes]:
        """The blob in chunks; close the generator. Raises JobGone where there is none."""
        ...

    async def delete(self, blobs: list[str]) -> None:
        """Remove blobs for good; one that is not there is no matter."""
        ...

    async def modified_times(self) -> dict[str, str]:
        """Everything that is kept, by name, unfinished blobs included.

        The value changes whenever something is added to what has the name.
        """
        ...

    @property
    def direct(self) -> "PresignedUrls | None":
        """How clients reach blobs without this server, where they can."""
        ...


class PresignedUrls(Protocol):
    """A store that clients send to and fetch from by themselves, under signed addresses."""

    def put_url(self, blob: str, seconds: float) -> str:
        """Where a client may PUT this blob for so long."""
        ...

    def get_url(self, blob: str, seconds: float, headers: Mapping[str, str]) -> str:
        """Where a client may GET it; Content-Type and Content-Disposition are those given."""
        ...

    async def take_over(self, blob: str, new: str) -> int | None:
        """Copy what a client sent to a name that no client can write to, and remove it.

        Its bytes; None where nothing was sent.
        """
        ...


def blob_of(name: str) -> str | None:
    """The blob that something kept is, or was to become; None for what is no blob of ours."""
    found = _KEPT.fullmatch(name)
    return found[1] if found else None


def new_blob() -> str:
    """A name for a blob that nobody can guess."""
    return secrets.token_hex(16)


class FolderStore:
    """Blobs as files of one folder."""

    direct = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        mark_as_clients(folder)

    async def write(self, blob: str, chunks: AsyncIterator[bytes]) -> WrittenBlob:
        path, temporary = self._folder / blob, self._folder / f".{checked(blob)}.partial"
        digest, count, file = hashlib.sha256(), 0, None

        def begin() -> None:
            nonlocal file
            file = temporary.open("xb")

        try:
            await in_thread(begin)
            assert file is not None
            async for chunk in chunks:
                await in_thread(partial(_add, file, digest, chunk))
                count += len(chunk)
            await in_thread(partial(_finish, file, temporary, path))
        except BaseException as error:
            if file is not None:
                _close(file)
            _remove([temporary, path])
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise StorageFull("there is no room for this picture") from error
            raise
        return WrittenBlob(count, digest.hexdigest())

    async def read(self, blob: str) -> AsyncGenerator[bytes]:
        try:
            file = await in_thread(
                partial((self._folder / checked(blob)).open, "rb"), discard=_close
            )
        except FileNotFoundError:
            raise JobGone("the picture is no longer here") from None
        try:
            while chunk := await in_thread(partial(file.read, CHUNK_BYTES)):
                yield chunk
        finally:
            file.close()

    async def delete(self, blobs: list[str]) -> None:
        paths = [self._folder / blob for blob in blobs]
        await in_thread(partial(_remove, paths))

    async def modified_times(self) -> dict[str, str]:
        return await in_thread(partial(_stamps, self._folder))


def checked(blob: str) -> str:
    """The name, where it is one. Raises ValueError."""
    if not _BLOB.fullmatch(blob):
        raise ValueError(f"{blob!r} is no name of a blob")
    return blob


def _add(file: BinaryIO, digest: "hashlib._Hash", chunk: bytes) -> None:
    file.write(chunk)
    file.flush()  # who looks sees it grow
    digest.update(chunk)


def _finish(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Give the file its name once every byte of it is on the disk."""
    os.fsync(file.fileno())
    file.close()
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # a name is on the disk once its folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _close(file: BinaryIO) -> None:
    """Close a file that is to go; what of it found no room is no matter."""
    with contextlib.suppress(OSError):
        file.close()


def _stamps(folder: Path) -> dict[str, str]:
    modified_times: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.name != MARKER:
                    modified_times[entry.name] = (
                        f"{entry.stat().st_mtime_ns}-{entry.stat().st_size}"
                    )
    return modified_times


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


async def all_of(store: Store, blob: str) -> bytes:
    """A whole blob; for what needs all of it at once, which a codec does."""
    async with contextlib.aclosing(store.read(blob)) as chunks:
        return b"".join([chunk async for chunk in chunks])
