"""OpenVINO on the CPU: the same network at 1.5 (fp32) to 3.5 (bf16) times torch's speed.

Convolutional networks are compiled once for all shapes, at no cost in speed, so that tiles can fit
their picture; window-attention networks once per shape. The tiles of a batch run sequentially,
which costs nothing on a CPU and makes each output bit-exact whatever the batch.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from superres.common.environment import cpu_threads
from superres.model.backends import DeviceOutOfMemory, as_dtype, as_unit_floats
from superres.model.backends.network import load_network
from superres.model.backends.openvino_import import TorchScriptPythonDecoder, openvino
from superres.model.bundle import Bundle

Array = NDArray[Any]

KERNEL_CACHE_SIZE = 1000  # enough for a few dozen shapes of a network of twenty layers
TRACE_SIDE = 48  # rounded up to the network's grid; small for speed


class OpenVinoBackend:
    """Runs a compiled model, one for all shapes or one per shape."""

    name = "openvino"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: str = "fp32") -> None:
        self.precision = precision
        self.any_shape = bundle.info.window is None
        self._core = openvino.Core()
        self._model = convert(bundle)
        self._lock = Lock()
        self._compiled: dict[tuple[int, int], openvino.CompiledModel] = {}
        self._options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(cpu_threads()),
            "NUM_STREAMS": "1",
            "CPU_RUNTIME_CACHE_CAPACITY": str(KERNEL_CACHE_SIZE),
        }

    def forward(self, tiles_bhwc: Array) -> Array:
        """Run a batch; see `superres.model.backends.Backend`."""
        compiled = self._compiled_for(tiles_bhwc.shape[1], tiles_bhwc.shape[2])
        request = compiled.create_infer_request()
        results_bhwc: Array | None = None
        for index, tile_hwc in enumerate(tiles_bhwc):
            lr_bchw = as_unit_floats(tile_hwc).transpose(2, 0, 1)[None]
            with _translate_errors():
                request.infer([np.ascontiguousarray(lr_bchw)])
            sr_chw = as_dtype(request.get_output_tensor(0).data[0], tiles_bhwc.dtype)
            if results_bhwc is None:
                shape = (len(tiles_bhwc), *sr_chw.shape[1:], len(sr_chw))
                results_bhwc = np.empty(shape, tiles_bhwc.dtype)
            results_bhwc[index] = sr_chw.transpose(1, 2, 0)
        assert results_bhwc is not None  # a batch is not empty
        return results_bhwc

    def warm_up(self, shapes_hw: Iterable[tuple[int, int]]) -> None:
        for height, width in shapes_hw:
            self.forward(np.zeros((1, height, width, 3), np.uint8))
        with self._lock:
            # OpenVINO keeps intermediate tensors between runs: hundreds of megabytes of an idle
            # model.
            for compiled in self._compiled.values():
                compiled.release_memory()

    def close(self) -> None:
        with self._lock:
            self._compiled.clear()

    def _compiled_for(self, height: int, width: int) -> openvino.CompiledModel:
        shape = (-1, -1) if self.any_shape else (height, width)
        with self._lock:
            if shape not in self._compiled:
                model = self._model.clone()
                model.reshape([1, 3, *shape])
                self._compiled[shape] = self._core.compile_model(model, "CPU", self._options)
            return self._compiled[shape]


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise OpenVINO's out-of-memory errors as DeviceOutOfMemory."""
    try:
        yield
    except MemoryError as error:
        raise DeviceOutOfMemory("this machine's memory is full") from error
    except RuntimeError as error:
        if "alloc" in str(error):
            raise DeviceOutOfMemory(str(error).partition("\n")[0]) from error
        raise


def convert(bundle: Bundle) -> openvino.Model:
    """Convert the bundle's network to an OpenVINO model with batch 1 and dynamic size."""
    network = load_network(bundle)
    grid = bundle.info.geometry.grid
    side = -(-TRACE_SIDE // grid) * grid
    with warnings.catch_warnings(), torch.inference_mode():
        # OpenVINO traces with a deprecated torch API.
        warnings.simplefilter("ignore")
        traced = TorchScriptPythonDecoder(
            network,
            example_input=torch.zeros(1, 3, side, side),
            # The check traces a second time and runs both graphs: two thirds of the time. A server
            # compares the compiled model's output with the golden pair before it serves.
            trace_kwargs={"check_trace": False},
        )
        return openvino.convert_model(traced, input=[1, 3, -1, -1])
