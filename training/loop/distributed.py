"""Data-parallel training in several processes started by `torchrun`.

The recipe's batch is the global batch; each rank takes a slice of the same crops, so the world size
changes the speed and not the result (within float tolerance). Gradients are averaged in one
all-reduce after the backward pass rather than during it: a rank that runs out of memory then leaves
no other rank blocked in a collective.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from superres.common.errors import UsageError

Value = TypeVar("Value")

# The other ranks wait this long while rank 0 validates or writes.
TIMEOUT = timedelta(hours=1)
# Set by torchrun beside WORLD_SIZE: this process's rank and the rendezvous address.
TORCHRUN_VARIABLES = ("RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedContext:
    """Rank and world size of this process. Every rank must make the same calls."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes, validates and logs."""
        return self.rank == 0

    def batch_slice(self, batch: int) -> slice:
        """This rank's slice of a batch; raises UsageError if it cannot be divided evenly."""
        if batch % self.world_size:
            raise UsageError(
                f"batch {batch} is not divisible by {self.world_size} processes; change the number "
                "of processes (torchrun --nproc-per-node) or the recipe's batch"
            )
        share = batch // self.world_size
        return slice(self.rank * share, (self.rank + 1) * share)

    def from_rank_zero(self, make: Callable[[], Value]) -> Value:
        """Call `make` on rank 0 and broadcast the result; its exception is raised on all ranks."""
        if self.world_size == 1:
            return make()
        outcome: list[object] = [None, None]
        if self.is_rank_zero:
            try:
                outcome[0] = make()
            except Exception as error:  # broadcast: the other ranks would block for ever
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if isinstance(outcome[1], Exception):
            raise outcome[1]
        return outcome[0]  # pyright: ignore[reportReturnType] # a broadcast loses the type

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a small tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values = values / self.world_size
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set on any rank."""
        if self.world_size == 1:
            return flag
        shared = torch.tensor(float(flag), device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared.item())

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks."""
        if self.world_size == 1:
            return
        gradients = [each.grad for each in parameters if each.grad is not None]
        flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        offset = 0
        for gradient in gradients:
            gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
            offset += gradient.numel()


def device_for_rank(requested: str = "auto") -> torch.device:
    """The device of this process for `requested`: auto, cpu, cuda or cuda:N.

    `auto` prefers a GPU. Without a number it is GPU LOCAL_RANK (set by `torchrun`), or the first.
    Raises UsageError for an invalid device, or one that is not visible.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", requested):
        raise UsageError(f"unknown device {requested!r}; give auto, cpu, cuda or cuda:N")
    visible = torch.cuda.device_count()
    if requested == "cpu" or (requested == "auto" and not visible):
        return torch.device("cpu")
    number = requested.partition(":")[2]
    if number and "LOCAL_RANK" in os.environ:
        raise UsageError(f"torchrun assigns each process its own GPU: give cuda, not {requested}")
    index = int(number or os.environ.get("LOCAL_RANK", "0"))
    if index >= visible:
        raise UsageError(f"no CUDA device {index} ({visible} are visible); give --device cpu")
    return torch.device("cuda", index)


@contextmanager
def process_group(device: torch.device) -> Iterator[DistributedContext]:
    """Join the process group if `torchrun` started this process (it sets WORLD_SIZE, RANK,
    LOCAL_RANK, MASTER_ADDR and MASTER_PORT); a single process otherwise."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield DistributedContext()
        return
    if missing := [name for name in TORCHRUN_VARIABLES if name not in os.environ]:
        raise UsageError(
            f"WORLD_SIZE is {world_size}, but {' and '.join(missing)} not set: start several "
            "processes with torchrun, or unset WORLD_SIZE"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun's store outlives the processes, so it still holds the addresses of dead ones.
        # Each agent counts restarts for itself, and one that joined later has another count: on
        # several machines set TORCH_DISABLE_SHARE_RDZV_TCP_STORE to get a new store each time.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"start-{start}", store)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
    )
    try:
        yield DistributedContext(rank=rank, world_size=world_size)
    finally:
        dist.destroy_process_group()
