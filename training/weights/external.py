"""Other people's weights: read in a process of their own, taken in as plain arrays."""

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
WAIT_SECONDS = 600.0
# What the reading process may know of this one: where Python is, and how many threads to use.
PASSED_ON = (
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "OMP_NUM_THREADS",
    "SHARPLINE_THREADS",
)


class ExternalWeightsRefused(SharplineError):
    """A file of weights that is not taken in: it holds code, or no network that we have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalWeights:
    """Weights that came as a file: the network they fit and every tensor by our names."""

    path: Path
    sha256: str
    arch: Arch
    weights: dict[str, NDArray[Any]]


def is_external(path: Path) -> bool:
    """Whether a path is meant as a file of weights rather than as a bundle."""
    return path.suffix.lower() in SUFFIXES


def read_external(path: Path) -> ExternalWeights:
    """Read a .pth, .pt, .ckpt (pickled weights) or .safetensors file.

    The pickle is opened in a process with limits, weights only, so no code in it ever runs. Raises
    UsageError for a file that is not there, ForeignRefused with the reason for one that is not
    taken in.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if not is_external(path):
        raise UsageError(f"{path} is no file of weights; those end in {', '.join(SUFFIXES)}")
    if path.stat().st_size > MAX_BYTES:
        raise ExternalWeightsRefused(f"{path} is larger than any network of Sharpline's could be")
    with tempfile.TemporaryDirectory(prefix="sharpline-weights-") as scratch:
        converted = Path(scratch) / "weights.safetensors"
        _convert(path.resolve(), converted)
        arch, weights = _read_converted(converted)
    return ExternalWeights(path=path, sha256=sha256_file(path), arch=arch, weights=weights)


def _convert(source: Path, target: Path) -> None:
    command = [sys.executable, "-P", "-m", "training.weights.unpickle", str(source), str(target)]
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    try:
        ended = subprocess.run(
            command,
            cwd=target.parent,
            env={**environment, "HOME": str(target.parent)},
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExternalWeightsRefused(
            f"{source} was not read within {WAIT_SECONDS:.0f} s"
        ) from error
    if ended.returncode < 0:
        raise ExternalWeightsRefused(
            f"reading {source} was ended by {signal.Signals(-ended.returncode).name}: it asked for "
            "more memory, time or disk than a file of its size should"
        )
    lines = ended.stdout.splitlines()
    if ended.returncode or not lines:
        reason = (ended.stderr.strip().splitlines() or ["no word of why"])[-1]
        raise ExternalWeightsRefused(f"{source} could not be read: {reason}")
    refused = json.loads(lines[-1]).get("refused")
    if refused is not None:
        raise ExternalWeightsRefused(f"{source} is not taken in: {refused}")


def _read_converted(path: Path) -> tuple[Arch, dict[str, NDArray[Any]]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        arch = Arch.model_validate_json((file.metadata() or {})["arch"])
        weights = {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    return arch, weights
