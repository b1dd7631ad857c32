"""Optimisations for CUDA devices: compiled blocks and one CUDA graph per shape."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from superres.model.archs import Architecture

RECOMPILE_LIMIT = 64  # shapes per block: buckets times batches
WARMUP_RUNS = 2  # before a capture: the first compiles, the second selects kernels

Run = Callable[[Tensor], Tensor]


def compile_blocks(network: nn.Module, arch: Architecture) -> nn.Module:
    """Remove concatenations and compile the repeated blocks, in place: they share one compilation,
    which takes seconds where a deep network's takes minutes."""
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    network = arch.concat_free(network)
    for module in network.modules():
        if isinstance(module, arch.compiled_blocks):
            module.compile(dynamic=False)
    return network


class CudaGraphs:
    """CUDA graphs of one network, one per shape: a launch takes microseconds, not milliseconds."""

    def __init__(self, run: Run, device: str) -> None:
        self._run = run
        self._device = torch.device(device)
        self._pool = torch.cuda.graph_pool_handle()  # graphs never run concurrently: shared memory
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def run(self, tiles_bhwc: Tensor, batch: int | None) -> NDArray[Any]:
        """Run uint8 tiles through the graph of `batch` tiles of their shape; None runs eagerly."""
        if batch is None:
            return self._run(tiles_bhwc.to(self._device)).cpu().numpy()
        shape = (batch, *tiles_bhwc.shape[1:])
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(shape)
        graph, static_input, static_output = self._graphs[shape]
        # The rest of the static input keeps old values; its outputs are dropped below.
        static_input[: len(tiles_bhwc)].copy_(tiles_bhwc, non_blocking=False)
        graph.replay()
        return static_output[: len(tiles_bhwc)].cpu().numpy()

    def _capture(self, shape: tuple[int, ...]) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        with torch.cuda.device(self._device):
            static_input = torch.zeros(shape, dtype=torch.uint8, device=self._device)
            stream = torch.cuda.Stream(self._device)
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                for _ in range(WARMUP_RUNS):
                    self._run(static_input)
            torch.cuda.current_stream(self._device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                static_output = self._run(static_input)
        return graph, static_input, static_output
