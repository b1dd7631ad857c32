"""What makes a network fast on a CUDA device: compiled blocks and one graph per shape."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from superres.model.archs.compact import SRVGGNetCompact
from superres.model.archs.rrdb import RRDB
from superres.model.archs.swinir import SwinLayer
from superres.model.backends.dense import without_concatenation

# Compiling a whole RRDBNet takes minutes, one block seconds, and the blocks share their code.
BLOCKS = (RRDB, SwinLayer, SRVGGNetCompact)
MAX_SHAPES = 64  # that one block is compiled for: buckets times batches
WARM_RUNS = 2  # before a capture: the first compiles, the second chooses kernels

Run = Callable[[Tensor], Tensor]


def prepared(network: nn.Module) -> nn.Module:
    """The network without concatenations and with its repeated blocks compiled, in place."""
    torch._dynamo.config.recompile_limit = MAX_SHAPES
    network = without_concatenation(network)
    for module in network.modules():
        if isinstance(module, BLOCKS):
            module.compile(dynamic=False)
    return network


class Graphs:
    """CUDA graphs of one network, one per shape; a launch costs microseconds, not milliseconds."""

    def __init__(self, run: Run, device: str) -> None:
        self._run = run
        self._device = torch.device(device)
        self._pool = torch.cuda.graph_pool_handle()  # graphs never run at once: they share memory
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def run(self, tiles_bhwc: Tensor, batch: int | None) -> NDArray[Any]:
        """Run uint8 tiles through the graph of `batch` tiles of their shape; None has no graph."""
        if batch is None:
            return self._run(tiles_bhwc.to(self._device)).cpu().numpy()
        shape = (batch, *tiles_bhwc.shape[1:])
        if shape not in self._graphs:
            self._graphs[shape] = self._captured(shape)
        graph, given, made = self._graphs[shape]
        # Places beyond the batch keep what was there before; their results are cut off below.
        given[: len(tiles_bhwc)].copy_(tiles_bhwc, non_blocking=False)
        graph.replay()
        return made[: len(tiles_bhwc)].cpu().numpy()

    def _captured(self, shape: tuple[int, ...]) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        with torch.cuda.device(self._device):
            given = torch.zeros(shape, dtype=torch.uint8, device=self._device)
            side = torch.cuda.Stream(self._device)
            side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(side):
                for _ in range(WARM_RUNS):
                    self._run(given)
            torch.cuda.current_stream(self._device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                made = self._run(given)
        return graph, given, made
