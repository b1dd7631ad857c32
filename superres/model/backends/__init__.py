"""Inference backends: one small interface for the gate, `enhance` and serving.

A backend takes tiles as numpy (B, H, W, 3) of uint8, uint16 or float32 in [0, 1] and returns
(B, H * scale, W * scale, 3) of the same dtype. May import archs, bundle and common.
"""

import importlib.util
import re
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.model.bundle import Bundle

Array = NDArray[Any]

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
MAX_PRECISION_ERROR = 2.0  # in grey levels of 255: bound for `precision` auto to choose bf16


class BackendUnavailable(SharplineError):
    """The requested runtime, device or precision is not available on this machine."""


class DeviceOutOfMemory(SharplineError):
    """A batch was too large for the device's memory; a smaller one may fit."""


class DeviceLost(SharplineError):
    """The device context is lost in this process; only a new process can use the device."""


class Backend(Protocol):
    """A model on a device."""

    name: str
    device: str
    precision: str
    any_shape: bool  # whether a new tile shape costs little more than a known one

    def forward(self, tiles_bhwc: Array) -> Array:
        """Run a batch; integer outputs are rounded and clipped, float outputs are not clipped.

        Raises DeviceOutOfMemory, after which smaller batches work, or DeviceLost.
        """
        ...

    def warm_up(self, shapes_hw: Iterable[tuple[int, int]]) -> None:
        """Prepare for tiles of these shapes, so that the first request has no start-up cost."""
        ...

    def close(self) -> None:
        """Free the device memory; the backend cannot be used afterwards."""
        ...


def devices_of(backend: str = "auto", device: str = "auto") -> tuple[str, ...]:
    """All devices of the machine for `auto` or `cuda` without a number, else the given device."""
    if device not in ("auto", "cuda"):
        return (device,)
    if backend == "auto":
        backend = _best_backend(device)
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return (device,)


def load_backend(
    bundle: Bundle, *, backend: str = "auto", device: str = "auto", precision: str = "auto"
) -> Backend:
    """The bundle's network on a device.

    `backend` auto is torch with a CUDA device, else OpenVINO if installed, else torch. `precision`
    auto is bf16 if the bundle states an error of at most MAX_PRECISION_ERROR, else fp32. Raises
    BackendUnavailable, or BrokenBundle if the weights do not fit the network.
    """
    if not DEVICE.fullmatch(device):
        raise BackendUnavailable(f"no device {device!r}; choose cpu, cuda or cuda:N")
    if backend == "auto":
        backend = _best_backend(device)
    if precision == "auto":
        stated = bundle.info.bounds.precision_levels.get("bf16")
        precision = "bf16" if stated is not None and stated <= MAX_PRECISION_ERROR else "fp32"
    if precision not in ("fp32", "bf16", "fp16"):
        raise BackendUnavailable(
            f"no precision {precision!r}; choose fp32 or bf16, or fp16 on a GPU"
        )
    if backend == "torch":
        from superres.model.backends.torch_backend import TorchBackend

        return TorchBackend(bundle, device=device, precision=precision)
    if backend == "openvino":
        if importlib.util.find_spec("openvino") is None:
            raise BackendUnavailable("OpenVINO is not installed: pip install 'sharpline[serve]'")
        if precision == "fp16":
            raise BackendUnavailable("OpenVINO runs on the CPU here, in fp32 or bf16")
        from superres.model.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend(bundle, precision=precision)
    raise BackendUnavailable(f"no backend {backend!r}; choose torch or openvino")


def _best_backend(device: str) -> str:
    if device.startswith("cuda"):
        return "torch"
    if device == "auto" and importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return "torch"
    return "openvino" if importlib.util.find_spec("openvino") is not None else "torch"


def as_unit_floats(tiles: Array) -> NDArray[np.float32]:
    """Integers to float32 in [0, 1]; floats are returned unchanged."""
    if tiles.dtype == np.float32:
        return tiles
    return tiles.astype(np.float32) / np.float32(np.iinfo(tiles.dtype).max)


def as_dtype(results: NDArray[np.float32], dtype: np.dtype) -> Array:
    """Float32 in [0, 1] to an integer dtype, rounded half up and clipped, or unchanged float32."""
    if dtype == np.float32:
        return results
    values = np.clip(results, 0.0, 1.0)
    values *= np.float32(np.iinfo(dtype).max)
    values += np.float32(0.5)
    return values.astype(dtype)
