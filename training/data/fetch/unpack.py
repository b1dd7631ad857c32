"""Unpacks pictures from an untrusted archive into given folders.

Paths of the archive are never used: each picture is written under its bare file name into the
folder that the caller names. An archive with a path outside itself, a link, a device or too high a
compression ratio is rejected as a whole.
"""

import bz2
import fnmatch
import gzip
import hashlib
import json
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, cast

from superres.common.console import track
from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes, write_bytes
from superres.image.codecs import PICTURE_SUFFIXES

MAX_PICTURE_BYTES = 512 * 1024**2
MAX_ENTRIES = 1_000_000
# Pictures are compressed already; a higher compression ratio is a decompression bomb.
MAX_RATIO, RATIO_FREE_BYTES = 10, 1024**2
COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class BadArchive(SharplineError):
    """A file that is not an archive, is damaged, or does not hold the expected pictures."""


class UnsafeArchive(BadArchive):
    """An archive with unsafe paths, links, devices or sizes."""


@dataclass(slots=True)
class Unpacked:
    """The pictures that were written into one folder: file name -> (bytes, sha256, md5)."""

    pictures: dict[str, tuple[int, str, str]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Their total size."""
        return sum(size for size, _, _ in self.pictures.values())

    @property
    def content_sha256(self) -> str:
        """A hash over every picture's name and bytes."""
        content = [[name, sha256] for name, (_, sha256, _) in sorted(self.pictures.items())]
        return sha256_bytes(json.dumps(content).encode())

    @property
    def pictures_md5(self) -> str:
        """The md5 over the pictures' hex md5s in the order of their names."""
        digest = hashlib.md5(usedforsecurity=False)
        for _, (_, _, md5) in sorted(self.pictures.items()):
            digest.update(md5.encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A file in an archive: its path there, its declared size, and a function to read it."""

    path: str
    size: int
    read: Callable[[int], bytes]


def unpack(archives: Sequence[Path], targets: Mapping[str, Path]) -> dict[str, Unpacked]:
    """Write the pictures of some folders of all `archives` into local folders.

    `targets` maps a folder in the archive, or a shell pattern for several, to an existing folder.
    Raises UnsafeArchive or BadArchive after some pictures may have been written, so pass staging
    folders.
    """
    unpacked = {pattern: Unpacked() for pattern in targets}
    for archive in archives:
        max_bytes = archive.stat().st_size * MAX_RATIO + RATIO_FREE_BYTES
        with _open_entries(archive, max_bytes) as entries:
            for entry in track(entries, f"unpacking {archive.name}"):
                pattern = _matching_pattern(entry.path, unpacked)
                if pattern is not None:
                    _write_picture(entry, targets[pattern], unpacked[pattern])
    return unpacked


def _matching_pattern(path: str, patterns: Mapping[str, object]) -> str | None:
    pure = PurePosixPath(path)
    if pure.suffix.lower() not in PICTURE_SUFFIXES or pure.name.startswith("."):
        return None
    parent = str(pure.parent)
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(parent, pattern)), None)


def _write_picture(entry: _Entry, folder: Path, unpacked: Unpacked) -> None:
    name = PurePosixPath(entry.path).name
    if name in unpacked.pictures:
        raise UnsafeArchive(f"it holds {name} twice")
    if entry.size > MAX_PICTURE_BYTES:
        raise UnsafeArchive(f"{entry.path} declares {entry.size} bytes")
    data = entry.read(entry.size)
    if len(data) != entry.size:
        raise BadArchive(f"{entry.path} is {len(data)} bytes instead of {entry.size}")
    write_bytes(folder / name, data)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    unpacked.pictures[name] = (len(data), sha256_bytes(data), md5)


@contextmanager
def _open_entries(archive: Path, max_bytes: int) -> Iterator[Iterator[_Entry]]:
    """The files of a zip or tar archive; their declared sizes may add up to `max_bytes`."""
    try:
        if _is_zip(archive):
            with zipfile.ZipFile(archive) as opened:
                yield _within_limits(_zip_entries(opened), max_bytes)
        else:
            with _uncompressed(archive) as stream:
                bounded = cast(IO[bytes], BoundedReads(stream))
                with tarfile.open(fileobj=bounded, mode="r:") as opened:
                    yield _within_limits(_tar_entries(opened), max_bytes)
                _drain(stream, max_bytes)
    except BadArchive as error:
        raise type(error)(f"{archive.name} is rejected: {error}") from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        OSError,  # gzip and bz2 on damaged data
        EOFError,
        NotImplementedError,  # a compression that zipfile does not know
        RuntimeError,  # an encrypted entry
    ) as error:
        raise BadArchive(f"{archive.name} is not an archive or is damaged: {error}") from error


def _is_zip(archive: Path) -> bool:
    # zipfile.is_zipfile searches for the end record, which a tar that holds a zip has too.
    with archive.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _within_limits(entries: Iterator[_Entry], max_bytes: int) -> Iterator[_Entry]:
    total = 0
    for count, entry in enumerate(entries, start=1):
        _require_safe_path(entry.path)
        total += entry.size
        if total > max_bytes or count > MAX_ENTRIES:
            raise UnsafeArchive(
                f"its files declare more than {max_bytes} bytes, "
                f"{MAX_RATIO} times the archive's size"
            )
        yield entry


def _require_safe_path(path: str) -> None:
    parts = path.replace("\\", "/").split("/")
    if path.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in path:
        raise UnsafeArchive(f"it holds the path {path!r}, which is outside the archive")


def _zip_entries(opened: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnsafeArchive(f"{info.filename} is a link or a device")
        if not info.is_dir():
            yield _Entry(
                path=info.filename,
                size=info.file_size,
                read=lambda size, info=info: _read_zip_entry(opened, info, size),
            )


def _read_zip_entry(opened: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> bytes:
    with opened.open(info) as file:
        # One byte more than declared makes zipfile reach the end, where it checks the CRC.
        return file.read(size + 1)


def _tar_entries(opened: tarfile.TarFile) -> Iterator[_Entry]:
    for info in opened:
        if info.isdir():
            _require_safe_path(info.name)
        elif not info.isreg() or info.issparse():
            raise UnsafeArchive(f"{info.name} is a link, a device or a sparse file")
        else:
            yield _Entry(
                path=str(PurePosixPath(info.name)),
                size=info.size,
                read=lambda size, info=info: _read_tar_entry(opened, info, size),
            )


class BoundedReads:
    """A file that refuses reads larger than MAX_PICTURE_BYTES.

    tarfile would read a header that declares 8 GB into memory at once.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > MAX_PICTURE_BYTES:
            raise UnsafeArchive(f"it holds a header that declares {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def _uncompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        magic = file.read(6)
    for start, opener in COMPRESSIONS.items():
        if magic.startswith(start):
            return cast(IO[bytes], opener(archive))
    return archive.open("rb")


def _drain(stream: IO[bytes], max_bytes: int) -> None:
    """Read to the end, which tarfile does not: a compressed file's checksum is its last bytes."""
    read = 0
    while chunk := stream.read(1024**2):
        read += len(chunk)
        if read > max_bytes:
            raise UnsafeArchive(f"it unpacks to more than {max_bytes} bytes")


def _read_tar_entry(opened: tarfile.TarFile, info: tarfile.TarInfo, size: int) -> bytes:
    file = opened.extractfile(info)
    assert file is not None
    return file.read(size)
