"""Checkpoints: one file each, written atomically and verified by sha256 before loading."""

import io
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from superres.common.console import say
from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes, write_bytes

MAGIC = b"SHARPLINE-CHECKPOINT-4 "
HEADER_BYTES = len(MAGIC) + 64 + 1
KEPT = 2
# Each weight is stored four times: weight, EMA and Adam's two moments.
COPIES_OF_WEIGHTS = 4


class BrokenCheckpoint(SharplineError):
    """A file that is not a checkpoint, or a damaged one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Everything that the rest of a training depends on, except its recipe and data.

    The order of the data is a function of the recipe's seed and `step`. `state` holds networks,
    EMA and optimizers, `counters` the loop's counters.
    """

    step: int
    elapsed_seconds: float
    state: dict[str, Any]
    counters: dict[str, Any]
    torch_rng: torch.Tensor
    cuda_rng: list[torch.Tensor]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, then remove all but the newest KEPT and leftovers of killed writes.

    If the disk is full, all older checkpoints but the newest are removed and the write is retried.
    Raises SharplineError if that is not enough; the newest older one is kept.
    """
    buffer = io.BytesIO()
    torch.save({name: getattr(checkpoint, name) for name in Checkpoint.__slots__}, buffer)
    payload = buffer.getvalue()
    path = folder / f"step-{checkpoint.step:08d}.ckpt"
    data = MAGIC + sha256_bytes(payload).encode() + b"\n" + payload
    try:
        write_bytes(path, data)
    except SharplineError:
        older = _newest_first(folder)[1:]
        if not older:
            raise
        _remove(older)
        write_bytes(path, data)
    _remove((*_newest_first(folder)[KEPT:], *folder.glob(".step-*.partial")))
    return path


def checkpoint_bytes(folder: Path) -> int:
    """Total size of the checkpoints in a folder, in bytes."""
    return sum(path.stat().st_size for path in _newest_first(folder))


def check_free_space(folder: Path, weight_bytes: int, existing_bytes: int = 0) -> None:
    """Raise SharplineError unless the disk has space for KEPT checkpoints and one being written.

    `weight_bytes` is the size of the networks' weights, `existing_bytes` that of old checkpoints.
    """
    needed = (KEPT + 1) * COPIES_OF_WEIGHTS * weight_bytes - existing_bytes
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise SharplineError(
            f"{existing} has {free / 1e6:,.0f} MB of free space, the checkpoints of this training "
            f"need {needed / 1e6:,.0f} MB: free space, or choose another folder with --out"
        )


def load(path: Path) -> Checkpoint:
    """Read one checkpoint; raises BrokenCheckpoint unless its content matches its sha256."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenCheckpoint(f"cannot read {path}: {error.strerror}") from error
    header, payload = data[:HEADER_BYTES], data[HEADER_BYTES:]
    if header[: len(MAGIC)] != MAGIC and MAGIC[:-2] == header[: len(MAGIC) - 2]:
        raise BrokenCheckpoint(
            f"{path} was written by another version of Sharpline; train without --resume"
        )
    if header != MAGIC + sha256_bytes(payload).encode() + b"\n":
        raise BrokenCheckpoint(f"{path} is damaged (its sha256 does not match)")
    return Checkpoint(**torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True))


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint; damaged ones are logged and skipped."""
    for path in _newest_first(folder):
        try:
            return load(path)
        except BrokenCheckpoint as error:
            say(f"{error}; trying the previous one")
    return None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"), reverse=True)
