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
from training.loop.online_degradation import Degrading, OneKind

AHEAD = 3


class Sampler(Protocol):
    """Draws the batch of a step, or a part of it."""

    def batch(self, step: int, part: slice = ...) -> Batch: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """The crops of one step as uint8 on the host, and how HR crops are still to be degraded.

    `side` is the patch that they were drawn for.
    """

    step: int
    side: int
    lr_bhwc_u8: Tensor
    hr_bhwc_u8: Tensor
    kinds: tuple[OneKind, ...] | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """Makes the batch of a step: a function of the step and of `side`, the patch it asks for.

    `samplers` are by the side of their patch; `part` is this process's share of the batch.
    """

    samplers: Mapping[int, Sampler]
    side: Callable[[int], int]
    degrading: Degrading | None
    batch: int
    part: slice
    pin: bool

    def make(self, step: int) -> Fed:
        """The batch of a step."""
        side = self.side(step)
        batch = self.samplers[side].batch(step, self.part)
        kinds = None
        if self.degrading is not None:
            kinds = self.degrading.draw(batch.hr_bhwc_u8, step, self.batch, self.part)
        return Fed(
            step=step,
            side=side,
            lr_bhwc_u8=self._host(batch.lr_bhwc_u8),
            hr_bhwc_u8=self._host(batch.hr_bhwc_u8),
            kinds=kinds,
            names=batch.names,
        )

    def names(self, fed: Fed) -> tuple[str, ...]:
        """The pictures of the whole batch, other processes' shares included."""
        if len(fed.names) == self.batch:
            return fed.names
        return self.samplers[fed.side].batch(fed.step).names

    def _host(self, bhwc_u8: npt.NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(bhwc_u8)
        return tensor.pin_memory() if self.pin else tensor


class Feed:
    """A thread that stays up to AHEAD batches before the training. Use as a context manager.

    One thread: drawing crops holds Python's lock, so that two are no faster.
    """

    def __init__(self, kitchen: Kitchen, first_step: int, last_step: int) -> None:
        self._kitchen = kitchen
        self._steps = iter(range(first_step, last_step))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._ordered: deque[Future[Fed]] = deque()

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

    def take(self, step: int) -> Fed:
        """The batch of the next step; raises here what making it raised."""
        made = self._ordered.popleft().result()
        self._order()
        assert made.step == step, "batches are taken in the order of their steps"
        return made

    def _order(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._ordered.append(self._thread.submit(self._kitchen.make, step))


def to_device(
    fed: Fed, device: torch.device, layout: torch.memory_format, scale: int
) -> tuple[Tensor, Tensor]:
    """LR and HR crops (B, 3, H, W), float32 in [0, 1]; degraded here where the recipe says so."""
    hr_bchw = _floats(fed.hr_bhwc_u8, device, layout)
    if fed.kinds is None:
        return _floats(fed.lr_bhwc_u8, device, layout), hr_bchw
    return online_degradation.run(fed.kinds, hr_bchw, scale).contiguous(
        memory_format=layout
    ), hr_bchw


def _floats(bhwc_u8: Tensor, device: torch.device, layout: torch.memory_format) -> Tensor:
    bchw = bhwc_u8.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return bchw.to(torch.float32, memory_format=layout) / 255
