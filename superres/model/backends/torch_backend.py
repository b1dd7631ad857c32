"""PyTorch on a CPU or a CUDA device: the reference for every other backend."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from superres.common.environment import cpu_threads
from superres.model.archs import ARCHS
from superres.model.backends import BackendUnavailable, DeviceLost, DeviceOutOfMemory
from superres.model.backends.network import load_network
from superres.model.bundle import Bundle

log = logging.getLogger(__name__)

Array = NDArray[Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GRAPH_BATCHES = (1, 2, 4, 8)  # a batch is padded to the next of these; larger ones run eagerly


class TorchBackend:
    """Runs the network in float32, or with half-precision autocast.

    On a CUDA device the blocks are compiled, dense blocks run without concatenation, and each tile
    shape has its own CUDA graphs; `fast=False` disables all of that.
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
        self.any_shape = not self._on_gpu  # on a GPU every shape needs its own graph
        network = load_network(bundle)
        if self._on_gpu and fast:
            from superres.model.backends.cuda import compile_blocks

            network = compile_blocks(network, ARCHS.get(bundle.info.arch.name))
        # Convolution kernels are fastest in NHWC, on CPUs and GPUs.
        with self._translate_errors():
            self._network: nn.Module = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks this overload
        self._graphs: Any = None
        if self._on_gpu and fast:
            from superres.model.backends.cuda import CudaGraphs

            self._graphs = CudaGraphs(self._run, device)

    def forward(self, tiles_bhwc: Array) -> Array:
        """Run a batch; see `superres.model.backends.Backend`."""
        with self._translate_errors(), torch.inference_mode():
            tiles = torch.from_numpy(np.ascontiguousarray(tiles_bhwc))
            if self._graphs is not None and tiles_bhwc.dtype == np.uint8:
                return self._graphs.run(tiles, graph_batch(len(tiles)))
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
        """Convert, run and round on the device: only bytes cross the bus, not floats."""
        lr_bchw = unit_floats(tiles_bhwc).permute(0, 3, 1, 2)
        device_type = torch.device(self.device).type
        half = self.precision != "fp32"
        with torch.autocast(device_type, dtype=DTYPES[self.precision], enabled=half):
            sr_bchw = self._network(lr_bchw)
        return of_dtype(sr_bchw.float().permute(0, 2, 3, 1), tiles_bhwc.dtype).contiguous()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise torch's errors as DeviceOutOfMemory or DeviceLost."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceOutOfMemory(str(error).partition("\n")[0]) from error
        except MemoryError as error:
            raise DeviceOutOfMemory("this machine's memory is full") from error
        except RuntimeError as error:
            if self._on_gpu and is_sticky_error(error):
                raise DeviceLost(str(error).partition("\n")[0]) from error
            if "alloc" in str(error) and "memory" in str(error):  # torch's CPU allocator
                raise DeviceOutOfMemory(str(error).partition("\n")[0]) from error
            raise


def is_sticky_error(error: RuntimeError) -> bool:
    """Whether an error is sticky: the CUDA context cannot be used again in this process.

    Kernel faults are sticky (CUDA programming guide, error checking); torch raises them as
    AcceleratorError, or as a RuntimeError that names CUDA, cuDNN or cuBLAS.
    """
    return isinstance(error, torch.AcceleratorError) or any(
        marker in str(error) for marker in ("CUDA error", "CUDNN_STATUS_EXEC", "CUBLAS_STATUS_EXEC")
    )


def graph_batch(batch: int) -> int | None:
    """The smallest graph batch that holds this one; None if it is larger than all."""
    return next((size for size in GRAPH_BATCHES if size >= batch), None)


def unit_floats(tiles: Tensor) -> Tensor:
    """`superres.model.backends.as_unit_floats` for tensors."""
    if tiles.dtype == torch.float32:
        return tiles
    return tiles.float() / torch.iinfo(tiles.dtype).max


def of_dtype(results: Tensor, dtype: torch.dtype) -> Tensor:
    """`superres.model.backends.as_dtype` for tensors."""
    if dtype == torch.float32:
        return results
    rounded = results.clamp(0.0, 1.0) * torch.iinfo(dtype).max + 0.5
    # torch supports conversion to uint16 on few devices, to int32 on all.
    return rounded.to(dtype) if dtype == torch.uint8 else rounded.to(torch.int32).to(dtype)
