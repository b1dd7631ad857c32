"""Batches made ahead of the steps that need them, so that a step never waits for its data."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.packs.crops import Batch
from training.loop import online_degradation
from training.loop.online_degradation import DegradationGroup, OnlineDegradation

AHEAD = 3


class Sampler(Protocol):
    """Draws the batch of a step, or a part of it."""

    def batch(self, step: int, part: slice = ...) -> Batch: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBatch:
    """The crops of one step as uint8 on the host, and how HR crops are still to be degraded.

    `side` is the patch that they were drawn for.
    """

    step: int
    side: int
    lr_bhwc_u8: Tensor
    hr_bhwc_u8: Tensor
    groups: tuple[DegradationGroup, ...] | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBuilder:
    """Makes the batch of a step: a function of the step and of `side`, the patch it asks for.

    `samplers` are by the side of their patch; `part` is this process's share of the batch.
    """

    samplers: Mapping[int, Sampler]
    side: Callable[[int], int]
    degradation: OnlineDegradation | None
    batch: int
    part: slice
    pin: bool

    def make(self, step: int) -> HostBatch:
        """The batch of a step."""
        side = self.side(step)
        batch = self.samplers[side].batch(step, self.part)
        groups = None
        if self.degradation is not None:
            groups = self.degradation.draw(batch.hr_bhwc_u8, step, self.batch, self.part)
        return HostBatch(
            step=step,
            side=side,
            lr_bhwc_u8=self._host(batch.lr_bhwc_u8),
            hr_bhwc_u8=self._host(batch.hr_bhwc_u8),
            groups=groups,
            names=batch.names,
        )

    def names(self, host_batch: HostBatch) -> tuple[str, ...]:
        """The pictures of the whole batch, other processes' shares included."""
        if len(host_batch.names) == self.batch:
            return host_batch.names
        return self.samplers[host_batch.side].batch(host_batch.step).names

    def _host(self, bhwc_u8: npt.NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(bhwc_u8)
        return tensor.pin_memory() if self.pin else tensor


class Prefetcher:
    """A thread that stays up to AHEAD batches before the training. Use as a context manager.

    One thread: drawing crops holds Python's lock, so that two are no faster.
    """

    def __init__(self, batch_builder: BatchBuilder, first_step: int, last_step: int) -> None:
        self._batch_builder = batch_builder
        self._steps = iter(range(first_step, last_step))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetcher")
        self._ordered: deque[Future[HostBatch]] = deque()

    def __enter__(self) -> Self:
        for _ in range(AHEAD + 1):
            self._order()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> HostBatch:
        """The batch of the next step; raises here what making it raised."""
        made = self._ordered.popleft().result()
        self._order()
        assert made.step == step, "batches are taken in the order of their steps"
        return made

    def _order(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._ordered.append(self._thread.submit(self._batch_builder.make, step))


def to_device(
    host_batch: HostBatch, device: torch.device, layout: torch.memory_format, scale: int
) -> tuple[Tensor, Tensor]:
    """LR and HR crops (B, 3, H, W), float32 in [0, 1]; degraded here where the recipe says so."""
    hr_bchw = _floats(host_batch.hr_bhwc_u8, device, layout)
    if host_batch.groups is None:
        return _floats(host_batch.lr_bhwc_u8, device, layout), hr_bchw
    return online_degradation.run(host_batch.groups, hr_bchw, scale).contiguous(
        memory_format=layout
    ), hr_bchw


def _floats(bhwc_u8: Tensor, device: torch.device, layout: torch.memory_format) -> Tensor:
    bchw = bhwc_u8.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return bchw.to(torch.float32, memory_format=layout) / 255
