"""Blob stores for the pictures of jobs; blobs are streamed, never whole in memory.

The `Store` protocol and the store in a folder; `serving.jobs.bucket` has the one on S3. In the
folder a blob is written to a temporary file, synced and renamed, so a blob that exists is complete.
The folder is marked as clients' data, which training never reads.
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
_STORED_NAME = re.compile(r"\.?([0-9a-f]{32})(\.partial|\?.+)?")  # complete or unfinished
_STORAGE_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class WrittenBlob:
    """Size and checksum of a blob that was written."""

    bytes: int
    sha256: str


class Store(Protocol):
    """A blob store; a blob's name is 32 hex digits from `new_blob`."""

    async def write(self, blob: str, chunks: AsyncIterator[bytes]) -> WrittenBlob:
        """Store all chunks or nothing. Raises StorageFull, or what the chunks raise."""
        ...

    def read(self, blob: str) -> AsyncGenerator[bytes]:
        """The blob in chunks; close the generator. Raises JobGone if there is no such blob."""
        ...

    async def delete(self, blobs: list[str]) -> None:
        """Delete blobs permanently; missing ones are ignored."""
        ...

    async def change_markers(self) -> dict[str, str]:
        """A modification marker of every stored name, unfinished blobs included.

        The marker changes whenever data is added under that name.
        """
        ...

    @property
    def presigned_urls(self) -> "PresignedUrls | None":
        """Presigned URLs, if clients may use the store directly."""
        ...


class PresignedUrls(Protocol):
    """A store that clients upload to and download from directly, with presigned URLs."""

    def put_url(self, blob: str, seconds: float) -> str:
        """A URL to PUT this blob, valid for `seconds`."""
        ...

    def get_url(self, blob: str, seconds: float, headers: Mapping[str, str]) -> str:
        """A URL to GET it; the response has the Content-Type and -Disposition of `headers`."""
        ...

    async def move(self, blob: str, new: str) -> int | None:
        """Move what a client uploaded to a name that no client can write to.

        Returns its size in bytes; None if nothing was uploaded.
        """
        ...


def blob_of(name: str) -> str | None:
    """The blob of a stored name, complete or unfinished; None for a foreign file."""
    match = _STORED_NAME.fullmatch(name)
    return match[1] if match else None


def new_blob() -> str:
    """A random name for a blob, 128 bits."""
    return secrets.token_hex(16)


class FolderStore:
    """Blobs as files of one folder."""

    presigned_urls = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        mark_as_clients(folder)

    async def write(self, blob: str, chunks: AsyncIterator[bytes]) -> WrittenBlob:
        path, temporary = self._folder / blob, self._folder / f".{checked(blob)}.partial"
        digest, count, file = hashlib.sha256(), 0, None

        def create() -> None:
            nonlocal file
            file = temporary.open("xb")

        try:
            await in_thread(create)
            assert file is not None
            async for chunk in chunks:
                await in_thread(partial(_add, file, digest, chunk))
                count += len(chunk)
            await in_thread(partial(_finish, file, temporary, path))
        except BaseException as error:
            if file is not None:
                _close(file)
            _remove([temporary, path])
            if isinstance(error, OSError) and error.errno in _STORAGE_FULL_ERRNOS:
                raise StorageFull("there is no space left for this picture") from error
            raise
        return WrittenBlob(count, digest.hexdigest())

    async def read(self, blob: str) -> AsyncGenerator[bytes]:
        try:
            file = await in_thread(
                partial((self._folder / checked(blob)).open, "rb"), discard=_close
            )
        except FileNotFoundError:
            raise JobGone("the picture was deleted") from None
        try:
            while chunk := await in_thread(partial(file.read, CHUNK_BYTES)):
                yield chunk
        finally:
            file.close()

    async def delete(self, blobs: list[str]) -> None:
        paths = [self._folder / blob for blob in blobs]
        await in_thread(partial(_remove, paths))

    async def change_markers(self) -> dict[str, str]:
        return await in_thread(partial(_change_markers, self._folder))


def checked(blob: str) -> str:
    """The name, if it is valid. Raises ValueError."""
    if not _BLOB.fullmatch(blob):
        raise ValueError(f"{blob!r} is not a valid blob name")
    return blob


def _add(file: BinaryIO, digest: "hashlib._Hash", chunk: bytes) -> None:
    file.write(chunk)
    file.flush()  # so that `change_markers` sees the growth
    digest.update(chunk)


def _finish(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Sync the file, then rename it."""
    os.fsync(file.fileno())
    file.close()
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # the rename is durable once the folder is synced
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _close(file: BinaryIO) -> None:
    """Close a file that will be deleted; ignore data that cannot be flushed."""
    with contextlib.suppress(OSError):
        file.close()


def _change_markers(folder: Path) -> dict[str, str]:
    change_markers: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.name != MARKER:
                    change_markers[entry.name] = (
                        f"{entry.stat().st_mtime_ns}-{entry.stat().st_size}"
                    )
    return change_markers


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


async def read_all(store: Store, blob: str) -> bytes:
    """A whole blob in memory, as decoders need it."""
    async with contextlib.aclosing(store.read(blob)) as chunks:
        return b"".join([chunk async for chunk in chunks])
