"""Prefetching: batches are built in a thread ahead of the steps that use them."""

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

PREFETCHED_BATCHES = 3


class Sampler(Protocol):
    """Draws the batch of a step, or a slice of it."""

    def batch(self, step: int, part: slice = ...) -> Batch: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBatch:
    """The crops of one step as uint8 on the host, with the degradation still to apply.

    `side` is the patch side of the LR crops.
    """

    step: int
    side: int
    lr_bhwc_u8: Tensor
    hr_bhwc_u8: Tensor
    groups: tuple[DegradationGroup, ...] | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBuilder:
    """Builds the batch of a step. `side` maps a step to its patch side.

    `samplers` are keyed by patch side; `part` is this rank's slice of the batch.
    """

    samplers: Mapping[int, Sampler]
    side: Callable[[int], int]
    degradation: OnlineDegradation | None
    batch: int
    part: slice
    pin: bool

    def make(self, step: int) -> HostBatch:
        """Build the batch of a step."""
        side = self.side(step)
        batch = self.samplers[side].batch(step, self.part)
        groups = None
        if self.degradation is not None:
            groups = self.degradation.draw(batch.hr_bhwc_u8, step, self.batch, self.part)
        return HostBatch(
            step=step,
            side=side,
            lr_bhwc_u8=self._host_tensor(batch.lr_bhwc_u8),
            hr_bhwc_u8=self._host_tensor(batch.hr_bhwc_u8),
            groups=groups,
            names=batch.names,
        )

    def names(self, host_batch: HostBatch) -> tuple[str, ...]:
        """The pictures of the global batch, those of other ranks included."""
        if len(host_batch.names) == self.batch:
            return host_batch.names
        return self.samplers[host_batch.side].batch(host_batch.step).names

    def _host_tensor(self, bhwc_u8: npt.NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(bhwc_u8)
        return tensor.pin_memory() if self.pin else tensor


class Prefetcher:
    """A context manager with a thread that keeps up to PREFETCHED_BATCHES batches ready.

    One thread: drawing crops holds the GIL, so two would be no faster.
    """

    def __init__(self, batch_builder: BatchBuilder, first_step: int, last_step: int) -> None:
        self._batch_builder = batch_builder
        self._steps = iter(range(first_step, last_step))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prefetcher")
        self._pending: deque[Future[HostBatch]] = deque()

    def __enter__(self) -> Self:
        for _ in range(PREFETCHED_BATCHES + 1):
            self._submit_next()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> HostBatch:
        """The batch of the next step; re-raises exceptions of the thread."""
        host_batch = self._pending.popleft().result()
        self._submit_next()
        assert host_batch.step == step, "batches are taken in step order"
        return host_batch

    def _submit_next(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._pending.append(self._executor.submit(self._batch_builder.make, step))


def to_device(
    host_batch: HostBatch, device: torch.device, memory_format: torch.memory_format, scale: int
) -> tuple[Tensor, Tensor]:
    """LR and HR crops (B, 3, H, W), float32 in [0, 1]; applies the online degradation, if any."""
    hr_bchw = _floats(host_batch.hr_bhwc_u8, device, memory_format)
    if host_batch.groups is None:
        return _floats(host_batch.lr_bhwc_u8, device, memory_format), hr_bchw
    return online_degradation.run(host_batch.groups, hr_bchw, scale).contiguous(
        memory_format=memory_format
    ), hr_bchw


def _floats(bhwc_u8: Tensor, device: torch.device, memory_format: torch.memory_format) -> Tensor:
    bchw = bhwc_u8.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return bchw.to(torch.float32, memory_format=memory_format) / 255
