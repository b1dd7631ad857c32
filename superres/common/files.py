"""Atomic file writes: every write goes to a temporary name and is renamed."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from superres.common.errors import SharplineError


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` atomically: `path` holds either all of it or its previous content.

    Raises SharplineError if the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with translate_write_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Raise an OSError of the block, such as a full or read-only disk, as SharplineError."""
    try:
        yield
    except OSError as error:
        raise SharplineError(
            f"cannot write {path}: {error.strerror}; free space or choose "
            "another folder, then run the command again"
        ) from error


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write `value` atomically as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A new folder that becomes `final` by one rename on success and is removed on error.

    An existing `final` is replaced; readers see the old folder or the new one, never a mixture.
    Raises SharplineError if the folder cannot be created.
    """
    with translate_write_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(
            tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent)
        )
    try:
        staging.chmod(0o755)
        yield staging
        if final.exists():
            retired = staging.with_suffix(".retired")
            final.rename(retired)
            staging.rename(final)
            shutil.rmtree(retired)
        else:
            staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_abandoned(final: Path) -> None:
    """Remove the temporary folders that killed processes left; call it with `final` locked."""
    for suffix in ("partial", "retired"):
        for abandoned in final.parent.glob(f".{final.name}.*.{suffix}"):
            shutil.rmtree(abandoned, ignore_errors=True)


@contextmanager
def file_lock(path: Path, *, timeout_seconds: float = 0.0) -> Iterator[None]:
    """Hold an exclusive advisory lock; the kernel releases it when the process dies.

    Raises SharplineError if another process still holds it after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SharplineError(
                        f"{path} is locked by another process that is still "
                        "running; wait for it to finish, or stop it"
                    ) from None
                time.sleep(0.05)
        yield
