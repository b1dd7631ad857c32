"""Pictures out of an archive that may be hostile, into folders that are ours.

Nothing is written under a name that the archive chose a path for: each wanted picture's bare file
name is put into the folder that the caller names. An archive that holds a path out of itself, a
link, a device or far more than it weighs is refused whole.
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
# Pictures hardly shrink any further; an archive that holds more than this is no archive of those.
MAX_GROWTH, FREE_GROWTH_BYTES = 10, 1024**2
COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class BadArchive(SharplineError):
    """A file that is no archive, a damaged one, or one that is not what it should be."""


class UnsafeArchive(BadArchive):
    """An archive that tries to do what an archive of pictures has no need of."""


@dataclass(slots=True)
class Unpacked:
    """The pictures that came into one folder: file name -> (bytes, sha256, md5)."""

    pictures: dict[str, tuple[int, str, str]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What they weigh together."""
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
    """A file in an archive: its path there, the size it declares, and how to read some bytes."""

    path: str
    size: int
    read: Callable[[int], bytes]


def unpack(archives: Sequence[Path], targets: Mapping[str, Path]) -> dict[str, Unpacked]:
    """Write the pictures of some folders of all `archives` into folders of this disk.

    `targets` maps a folder in the archive, or a shell pattern for several, to a folder that is
    there. Raises UnsafeArchive or BadArchive, having written some pictures: so hand in staging
    folders.
    """
    unpacked = {pattern: Unpacked() for pattern in targets}
    for archive in archives:
        max_bytes = archive.stat().st_size * MAX_GROWTH + FREE_GROWTH_BYTES
        with _reading(archive, max_bytes) as entries:
            for entry in track(entries, f"unpacking {archive.name}"):
                pattern = _wanted(entry.path, unpacked)
                if pattern is not None:
                    _keep(entry, targets[pattern], unpacked[pattern])
    return unpacked


def _wanted(path: str, patterns: Mapping[str, object]) -> str | None:
    pure = PurePosixPath(path)
    if pure.suffix.lower() not in PICTURE_SUFFIXES or pure.name.startswith("."):
        return None
    parent = str(pure.parent)
    return next((one for one in patterns if fnmatch.fnmatchcase(parent, one)), None)


def _keep(entry: _Entry, folder: Path, unpacked: Unpacked) -> None:
    name = PurePosixPath(entry.path).name
    if name in unpacked.pictures:
        raise UnsafeArchive(f"it holds {name} twice")
    if entry.size > MAX_PICTURE_BYTES:
        raise UnsafeArchive(f"{entry.path} says that it is {entry.size} bytes")
    data = entry.read(entry.size)
    if len(data) != entry.size:
        raise BadArchive(f"{entry.path} is {len(data)} bytes instead of {entry.size}")
    write_bytes(folder / name, data)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    unpacked.pictures[name] = (len(data), sha256_bytes(data), md5)


@contextmanager
def _reading(archive: Path, max_bytes: int) -> Iterator[Iterator[_Entry]]:
    """The files of an archive, of either kind, each declared size counted against `max_bytes`."""
    try:
        if _is_zip(archive):
            with zipfile.ZipFile(archive) as opened:
                yield _counted(_zip_entries(opened), max_bytes)
        else:
            with _uncompressed(archive) as stream:
                bounded = cast(IO[bytes], BoundedReads(stream))
                with tarfile.open(fileobj=bounded, mode="r:") as opened:
                    yield _counted(_tar_entries(opened), max_bytes)
                _read_on(stream, max_bytes)
    except BadArchive as error:
        raise type(error)(f"{archive.name} is refused: {error}") from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        OSError,  # what gzip and bz2 say of damage
        EOFError,
        NotImplementedError,  # a compression that zipfile does not know
        RuntimeError,  # an encrypted entry
    ) as error:
        raise BadArchive(f"{archive.name} is no archive, or a damaged one: {error}") from error


def _is_zip(archive: Path) -> bool:
    # zipfile.is_zipfile looks for the end of one, which a tar of a zip has too.
    with archive.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _counted(entries: Iterator[_Entry], max_bytes: int) -> Iterator[_Entry]:
    total = 0
    for count, entry in enumerate(entries, start=1):
        _require_inside(entry.path)
        total += entry.size
        if total > max_bytes or count > MAX_ENTRIES:
            raise UnsafeArchive(
                f"its files say that they are more than {max_bytes} bytes, "
                f"{MAX_GROWTH} times what it weighs"
            )
        yield entry


def _require_inside(path: str) -> None:
    parts = path.replace("\\", "/").split("/")
    if path.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in path:
        raise UnsafeArchive(f"it holds the path {path!r}, which leads out of it")


def _zip_entries(opened: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnsafeArchive(f"{info.filename} is a link or a device")
        if not info.is_dir():
            yield _Entry(
                path=info.filename,
                size=info.file_size,
                read=lambda size, info=info: _read_zipped(opened, info, size),
            )


def _read_zipped(opened: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> bytes:
    with opened.open(info) as file:
        # One byte more than declared makes zipfile reach the end, where it checks the CRC.
        return file.read(size + 1)


def _tar_entries(opened: tarfile.TarFile) -> Iterator[_Entry]:
    for info in opened:
        if info.isdir():
            _require_inside(info.name)
        elif not info.isreg() or info.issparse():
            raise UnsafeArchive(f"{info.name} is a link, a device or a sparse file")
        else:
            yield _Entry(
                path=str(PurePosixPath(info.name)),
                size=info.size,
                read=lambda size, info=info: _read_tarred(opened, info, size),
            )


class BoundedReads:
    """A file that gives no more than a picture's bytes at once.

    tarfile reads a header that says it is 8 GB long into memory as one piece.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > MAX_PICTURE_BYTES:
            raise UnsafeArchive(f"it holds a header that says it is {size} bytes")
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


def _read_on(stream: IO[bytes], max_bytes: int) -> None:
    """Read what tarfile has no need of: a compressed file's checksum stands at its very end."""
    read = 0
    while piece := stream.read(1024**2):
        read += len(piece)
        if read > max_bytes:
            raise UnsafeArchive("it goes on without an end")


def _read_tarred(opened: tarfile.TarFile, info: tarfile.TarInfo, size: int) -> bytes:
    file = opened.extractfile(info)
    assert file is not None
    return file.read(size)
