import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from superres.model.archs import build
from superres.model.archs.rrdb import ConcatFreeBlock, ResidualDenseBlock, without_concatenation
from superres.model.backends import (
    BackendUnavailable,
    DeviceLost,
    DeviceOutOfMemory,
    as_dtype,
    as_unit_floats,
    devices_of,
    load_backend,
)
from superres.model.backends.openvino_backend import OpenVinoBackend
from superres.model.backends.torch_backend import (
    TorchBackend,
    graph_batch,
    is_sticky_error,
    of_dtype,
    unit_floats,
)


@pytest.fixture(scope="module")
def ramp():
    """Every 16-bit value that corresponds to an 8-bit one, and many between."""
    values = np.arange(64 * 64, dtype=np.uint32) * 16
    return values.astype(np.uint16).reshape(64, 64, 1).repeat(3, axis=2)


def test_openvino_output_is_the_same_after_memory_was_released(tiny_bundle, ramp):
    backend = OpenVinoBackend(tiny_bundle())
    before = backend.forward(ramp[None])
    backend.warm_up([(64, 64), (32, 96)])
    assert np.array_equal(backend.forward(ramp[None]), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_adds_the_input_in_full_precision(tiny_bundle, ramp, precision):
    """If the network's residual is zero the output equals the input in all 16 bits."""
    backend = OpenVinoBackend(tiny_bundle(), precision=precision)
    output = backend.forward(ramp[None])[0]
    assert np.array_equal(output, ramp.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("seed", range(3))
def test_dense_block_without_concatenation_gives_the_same(seed):
    torch.manual_seed(seed)
    block = ResidualDenseBlock(16, 8).eval()
    features = torch.randn(2, 16, 12, 9).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.allclose(ConcatFreeBlock(block)(features), block(features), atol=2e-6)


def test_every_dense_block_of_a_network_is_replaced():
    torch.manual_seed(0)
    network = build("rrdb", {"num_feat": 8, "num_block": 2, "num_grow_ch": 4}).eval()
    lr_bchw = torch.rand(1, 3, 10, 8)
    with torch.inference_mode():
        before = network(lr_bchw)
        after = without_concatenation(network)(lr_bchw)
    assert not any(isinstance(module, ResidualDenseBlock) for module in network.modules())
    assert torch.allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_conversions_on_the_device_equal_numpys(dtype):
    generator = np.random.default_rng(0)
    if dtype == np.float32:
        tiles = generator.random((1, 4, 4, 3), np.float32)
    else:
        tiles = generator.integers(0, np.iinfo(dtype).max, (1, 64, 64, 3), dtype, endpoint=True)
    results = generator.normal(0.5, 0.5, (1, 64, 64, 3)).astype(np.float32)
    on_device = unit_floats(torch.from_numpy(tiles))
    assert np.array_equal(on_device.numpy(), as_unit_floats(tiles))
    rounded = of_dtype(torch.from_numpy(results), torch.from_numpy(tiles).dtype)
    assert np.array_equal(rounded.numpy(), as_dtype(results, tiles.dtype))


@pytest.mark.parametrize(("tiles", "graph"), [(1, 1), (3, 4), (8, 8), (9, None)])
def test_a_batch_is_padded_to_the_next_graph(tiles, graph):
    assert graph_batch(tiles) == graph


@pytest.mark.parametrize(
    ("error", "sticky"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("Given groups=1, weight of size [8, 3, 3, 3]"), False),
    ],
)
def test_sticky_errors_are_recognised(error, sticky):
    assert is_sticky_error(error) == sticky


class Failing(torch.nn.Module):
    """Raises `error`, or allocates more memory than any machine has."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, lr_bchw):
        if self.error is None:
            return torch.empty(1 << 60, dtype=torch.uint8)
        raise self.error


@pytest.mark.parametrize(
    ("error", "on_gpu", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, DeviceOutOfMemory),
        (MemoryError(), False, DeviceOutOfMemory),
        (None, False, DeviceOutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access"), True, DeviceLost),
        (RuntimeError("CUDA error: an illegal memory access"), False, RuntimeError),
        (RuntimeError("a wrong shape"), True, RuntimeError),
    ],
)
def test_torchs_errors_are_translated(tiny_bundle, error, on_gpu, raised):
    backend = TorchBackend(tiny_bundle(), device="cpu")
    backend._network = Failing(error)
    backend._on_gpu = on_gpu
    with pytest.raises(raised) as caught:
        backend.forward(np.zeros((1, 8, 8, 3), np.uint8))
    assert type(caught.value) is raised


@pytest.mark.parametrize(
    ("message", "raised"), [("std::bad_alloc", DeviceOutOfMemory), ("a wrong shape", RuntimeError)]
)
def test_openvinos_errors_are_translated(tiny_bundle, monkeypatch, message, raised):
    backend = OpenVinoBackend(tiny_bundle())

    class Request:
        def infer(self, inputs):
            raise RuntimeError(message)

    class Compiled:
        def create_infer_request(self):
            return Request()

    monkeypatch.setattr(backend, "_compiled_for", lambda height, width: Compiled())
    with pytest.raises(raised):
        backend.forward(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_half_precision_on_a_cpu_is_refused(tiny_bundle, backend):
    with pytest.raises(BackendUnavailable, match="CPU"):
        load_backend(tiny_bundle(), backend=backend, device="cpu", precision="fp16")


def test_an_unknown_device_is_refused(tiny_bundle):
    with pytest.raises(BackendUnavailable, match="no device 'gpu'; choose cpu, cuda or cuda:N"):
        load_backend(tiny_bundle(), device="gpu")


def test_auto_is_every_device_of_the_machine(monkeypatch):
    assert devices_of("torch", "cuda:3") == ("cuda:3",)
    assert devices_of("openvino", "auto") == ("auto",)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of("auto", "auto") == ("cuda:0", "cuda:1")
    assert devices_of("torch", "cuda") == ("cuda:0", "cuda:1")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_fast_inference_on_a_gpu_is_within_a_level_of_eager(tiny_bundle, precision):
    tiles = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    plain = TorchBackend(tiny_bundle(), device="cuda", fast=False).forward(tiles)
    fast = TorchBackend(tiny_bundle(), device="cuda", precision=precision)
    fast.warm_up([(32, 32)])
    assert np.abs(fast.forward(tiles).astype(int) - plain).max() <= 1


def test_openvino_sends_no_telemetry(tmp_path):
    code = (
        "from superres.model.backends.openvino_import import openvino\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__)\n"
    )
    # The telemetry package is disabled by CI, and writes an id file into the home folder.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub"]
    assert list(tmp_path.iterdir()) == []
