"""PyTorch on a CPU or a CUDA device: the reference that every other backend is measured against."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from superres.backends import BackendUnavailable, as_dtype, as_unit_floats
from superres.backends.network import load_network
from superres.bundle import Bundle
from superres.environment import cpu_threads

Array = NDArray[Any]


class TorchBackend:
    """Runs the network as it was trained, in float32 or with bfloat16 convolutions."""

    name = "torch"

    def __init__(self, bundle: Bundle, *, device: str = "auto", precision: str = "fp32") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendUnavailable("no CUDA device is visible here; use --device cpu")
        if device == "cpu":
            torch.set_num_threads(cpu_threads())
        self.device = device
        self.precision = precision
        # NHWC is what convolution kernels want on both kinds of device.
        self._network = load_network(bundle).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks this overload

    @torch.inference_mode()
    def forward(self, tiles_bhwc: Array) -> Array:
        """Run a batch; see `superres.backends.Backend`."""
        lr_bchw = torch.from_numpy(as_unit_floats(tiles_bhwc)).permute(0, 3, 1, 2)
        lr_bchw = lr_bchw.to(self.device)
        kind = torch.device(self.device).type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            sr_bchw = self._network(lr_bchw)
        sr_bhwc = sr_bchw.float().permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(as_dtype(sr_bhwc, tiles_bhwc.dtype))

    def warm_up(self, shapes_hw: Iterable[tuple[int, int]]) -> None:
        for height, width in shapes_hw:
            self.forward(np.zeros((1, height, width, 3), np.uint8))

    def close(self) -> None:
        self._network.cpu()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
