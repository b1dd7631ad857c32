"""Checkpoints: one file each, whole or absent, verified before a byte of it is believed."""

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

MAGIC = b"SHARPLINE-CHECKPOINT-3 "
HEADER_BYTES = len(MAGIC) + 64 + 1
KEPT = 2
# A tensor of the network is in it as itself, as its average and twice in Adam's memory.
COPIES_OF_WEIGHTS = 4


class BrokenCheckpoint(SharplineError):
    """A file that is no checkpoint, or not the one that was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Everything that the rest of a training depends on, but for its recipe and data.

    The order of the data is a function of the recipe's seed and `step`, so it is in here too.
    `state` is the state of networks, average and optimizers, `counters` what the loop counts.
    """

    step: int
    elapsed_seconds: float
    state: dict[str, Any]
    counters: dict[str, Any]
    torch_rng: torch.Tensor
    cuda_rng: list[torch.Tensor]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, then remove all but the newest KEPT and what a killed write left.

    Without space for it the newest from before makes do alone. Raises SharplineError where that is
    not enough; the newest stays then.
    """
    buffer = io.BytesIO()
    torch.save({name: getattr(checkpoint, name) for name in Checkpoint.__slots__}, buffer)
    payload = buffer.getvalue()
    path = folder / f"step-{checkpoint.step:08d}.ckpt"
    data = MAGIC + sha256_bytes(payload).encode() + b"\n" + payload
    try:
        write_bytes(path, data)
    except SharplineError:
        spare = _newest_first(folder)[1:]
        if not spare:
            raise
        _remove(spare)
        write_bytes(path, data)
    _remove((*_newest_first(folder)[KEPT:], *folder.glob(".step-*.partial")))
    return path


def kept_bytes(folder: Path) -> int:
    """What the checkpoints in a folder take."""
    return sum(path.stat().st_size for path in _newest_first(folder))


def refuse_without_space(folder: Path, weight_bytes: int, there_bytes: int = 0) -> None:
    """Raise SharplineError unless KEPT checkpoints of networks of that size, and the one that is
    being written, fit where the folder will be; `there_bytes` of them are there already."""
    needed = (KEPT + 1) * COPIES_OF_WEIGHTS * weight_bytes - there_bytes
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise SharplineError(
            f"{there} has {free / 1e6:,.0f} MB of free space, the checkpoints of this training "
            f"need {needed / 1e6:,.0f} MB: free space, or choose another folder with --out"
        )


def load(path: Path) -> Checkpoint:
    """Read one checkpoint; raises BrokenCheckpoint unless its sha256 is the one it states."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenCheckpoint(f"cannot read {path}: {error.strerror}") from error
    header, payload = data[:HEADER_BYTES], data[HEADER_BYTES:]
    if header[: len(MAGIC)] != MAGIC and MAGIC[:-2] == header[: len(MAGIC) - 2]:
        raise BrokenCheckpoint(f"{path} is of another version of Sharpline; train without --resume")
    if header != MAGIC + sha256_bytes(payload).encode() + b"\n":
        raise BrokenCheckpoint(f"{path} is damaged (its sha256 differs from the one it states)")
    return Checkpoint(**torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True))


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged one is named and passed over."""
    for path in _newest_first(folder):
        try:
            return load(path)
        except BrokenCheckpoint as error:
            say(f"{error}; trying the one before")
    return None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"), reverse=True)
