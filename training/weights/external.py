"""External weights: read in a separate process, returned as plain arrays."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.common.errors import SharplineError, UsageError
from superres.common.files import sha256_file
from superres.model.bundle import Arch

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
MAX_BYTES = 4 * 1024**3
TIMEOUT_SECONDS = 600.0
# The environment of the reading process: where Python is and its threads, no secrets.
PASSED_VARIABLES = (
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "OMP_NUM_THREADS",
    "SHARPLINE_THREADS",
)


class ExternalWeightsRefused(SharplineError):
    """A file of weights that is refused: it holds code, or an unsupported network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalWeights:
    """Weights from a file: their network and all tensors, by Sharpline's state-dict keys."""

    path: Path
    sha256: str
    arch: Arch
    weights: dict[str, NDArray[Any]]


def is_external(path: Path) -> bool:
    """Whether a path names a file of weights rather than a bundle."""
    return path.suffix.lower() in SUFFIXES


def read_external(path: Path) -> ExternalWeights:
    """Read a .pth, .pt, .ckpt (pickled weights) or .safetensors file.

    Pickles are loaded weights-only in a process with resource limits, so no code in them runs.
    Raises UsageError for a missing file, ExternalWeightsRefused with the reason for other errors.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if not is_external(path):
        raise UsageError(f"{path} is not a file of weights; they end in {', '.join(SUFFIXES)}")
    if path.stat().st_size > MAX_BYTES:
        raise ExternalWeightsRefused(f"{path} is larger than {MAX_BYTES / 1024**3:.0f} GiB")
    with tempfile.TemporaryDirectory(prefix="sharpline-weights-") as scratch:
        converted = Path(scratch) / "weights.safetensors"
        _convert(path.resolve(), converted)
        arch, weights = _read_converted(converted)
    return ExternalWeights(path=path, sha256=sha256_file(path), arch=arch, weights=weights)


def _convert(source: Path, target: Path) -> None:
    command = [sys.executable, "-P", "-m", "training.weights.unpickle", str(source), str(target)]
    environment = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    try:
        completed = subprocess.run(
            command,
            cwd=target.parent,
            env={**environment, "HOME": str(target.parent)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExternalWeightsRefused(
            f"reading {source} timed out after {TIMEOUT_SECONDS:.0f} s"
        ) from error
    if completed.returncode < 0:
        raise ExternalWeightsRefused(
            f"reading {source} was killed by {signal.Signals(-completed.returncode).name}: it "
            "exceeded the memory, time or disk limit for its file size"
        )
    lines = completed.stdout.splitlines()
    if completed.returncode or not lines:
        reason = (completed.stderr.strip().splitlines() or ["no error message"])[-1]
        raise ExternalWeightsRefused(f"{source} could not be read: {reason}")
    refused = json.loads(lines[-1]).get("refused")
    if refused is not None:
        raise ExternalWeightsRefused(f"{source} is refused: {refused}")


def _read_converted(path: Path) -> tuple[Arch, dict[str, NDArray[Any]]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        arch = Arch.model_validate_json((file.metadata() or {})["arch"])
        weights = {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    return arch, weights
