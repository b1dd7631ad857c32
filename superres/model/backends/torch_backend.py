"""PyTorch on a CPU or a CUDA device: the reference that every other backend is measured against."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from superres.common.environment import cpu_threads
from superres.model.backends import BackendUnavailable, DeviceLost, DeviceOutOfMemory
from superres.model.backends.network import load_network
from superres.model.bundle import Bundle

log = logging.getLogger(__name__)

Array = NDArray[Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GRAPH_BATCHES = (1, 2, 4, 8)  # a batch is filled up to the next of these; larger ones run eagerly


class TorchBackend:
    """Runs the network as it was trained, in float32 or with half-width convolutions.

    On a CUDA device the blocks are compiled, dense blocks do without concatenation, and each tile
    shape has graphs of its own; `fast=False` leaves all that away.
    """

    name = "torch"

    def __init__(
        self, bundle: Bundle, *, device: str = "auto", precision: str = "fp32", fast: bool = True
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendUnavailable("no CUDA device is visible here; use --device cpu")
        if device == "cpu":
            torch.set_num_threads(cpu_threads())
        if device == "cpu" and precision == "fp16":
            raise BackendUnavailable("fp16 on a CPU is hundreds of times slower; choose bf16")
        self.device = device
        self.precision = precision
        self._on_gpu = device.startswith("cuda")
        self.any_shape = not self._on_gpu  # where every shape is a graph of its own
        network = load_network(bundle)
        if self._on_gpu and fast:
            from superres.model.backends.cuda import prepared

            network = prepared(network)
        # NHWC is what convolution kernels want on both kinds of device.
        with self._faults():
            self._network: nn.Module = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks this overload
        self._graphs: Any = None
        if self._on_gpu and fast:
            from superres.model.backends.cuda import Graphs

            self._graphs = Graphs(self._run, device)

    def forward(self, tiles_bhwc: Array) -> Array:
        """Run a batch; see `superres.model.backends.Backend`."""
        with self._faults(), torch.inference_mode():
            tiles = torch.from_numpy(np.ascontiguousarray(tiles_bhwc))
            if self._graphs is not None and tiles_bhwc.dtype == np.uint8:
                return self._graphs.run(tiles, filled_up(len(tiles)))
            return self._run(tiles.to(self.device)).cpu().numpy()

    def warm_up(self, shapes_hw: Iterable[tuple[int, int]]) -> None:
        batches = GRAPH_BATCHES if self._graphs is not None else (1,)
        for height, width in shapes_hw:
            for batch in batches:
                self.forward(np.zeros((batch, height, width, 3), np.uint8))

    def close(self) -> None:
        self._graphs = None
        self._network.cpu()
        if self._on_gpu:
            torch.cuda.empty_cache()

    def _run(self, tiles_bhwc: Tensor) -> Tensor:
        """The whole way on the device: bytes go over the bus, a quarter of what floats are."""
        lr_bchw = unit_floats(tiles_bhwc).permute(0, 3, 1, 2)
        kind = torch.device(self.device).type
        half = self.precision != "fp32"
        with torch.autocast(kind, dtype=DTYPES[self.precision], enabled=half):
            sr_bchw = self._network(lr_bchw)
        return of_dtype(sr_bchw.float().permute(0, 2, 3, 1), tiles_bhwc.dtype).contiguous()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Torch's errors in the words of this package."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceOutOfMemory(str(error).partition("\n")[0]) from error
        except MemoryError as error:
            raise DeviceOutOfMemory("this machine's memory is full") from error
        except RuntimeError as error:
            if self._on_gpu and is_poisoned(error):
                raise DeviceLost(str(error).partition("\n")[0]) from error
            if "alloc" in str(error) and "memory" in str(error):  # a CPU's allocator
                raise DeviceOutOfMemory(str(error).partition("\n")[0]) from error
            raise


def is_poisoned(error: RuntimeError) -> bool:
    """Whether a CUDA context cannot be used again: after any fault of its own it answers nothing.

    Faults of kernels are sticky (CUDA programming guide, error checking); torch raises them as
    AcceleratorError, or as a RuntimeError that names CUDA, cuDNN or cuBLAS.
    """
    return isinstance(error, torch.AcceleratorError) or any(
        arguments in str(error)
        for arguments in ("CUDA error", "CUDNN_STATUS_EXEC", "CUBLAS_STATUS_EXEC")
    )


def filled_up(batch: int) -> int | None:
    """The graph's batch that holds this one; None where it is larger than all."""
    return next((size for size in GRAPH_BATCHES if size >= batch), None)


def unit_floats(tiles: Tensor) -> Tensor:
    """Integers to float32 in [0, 1]; floats pass. As `superres.model.backends.as_unit_floats`."""
    if tiles.dtype == torch.float32:
        return tiles
    return tiles.float() / torch.iinfo(tiles.dtype).max


def of_dtype(results: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 rounded half up and clipped into an integer dtype; floats pass."""
    if dtype == torch.float32:
        return results
    rounded = results.clamp(0.0, 1.0) * torch.iinfo(dtype).max + 0.5
    # torch converts to uint16 on few devices only, to int32 on all.
    return rounded.to(dtype) if dtype == torch.uint8 else rounded.to(torch.int32).to(dtype)
