"""One training in several processes, as `torchrun` starts them.

The recipe's batch is that of all ranks together and each takes its share of the same crops, so the
number of ranks changes the speed and not the result (within float tolerance). Gradients meet in one
all-reduce after the backward pass rather than during it: a rank that runs out of memory on its way
then leaves no other one waiting inside a collective.
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

# The others wait this long while rank 0 validates or writes.
TIMEOUT = timedelta(hours=1)
# What says which process this is and where to meet the others, beside WORLD_SIZE.
TORCHRUN_SETS = ("RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedContext:
    """Which of the processes this one is. Every method is called by all of them alike."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes, validates and speaks."""
        return self.rank == 0

    def part(self, batch: int) -> slice:
        """This rank's share of a batch; raises UsageError where it cannot be shared evenly."""
        if batch % self.count:
            raise UsageError(
                f"batch {batch} cannot be shared by {self.count} processes; start as many as "
                "divide it (torchrun --nproc-per-node), or change the recipe's batch"
            )
        share = batch // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What rank 0 makes, on every rank. An error of rank 0 is raised by all."""
        if self.count == 1:
            return make()
        made: list[object] = [None, None]
        if self.first:
            try:
                made[0] = make()
            except Exception as error:  # handed on: the others would wait for ever
                made[1] = error
        dist.broadcast_object_list(made, src=0)
        if isinstance(made[1], Exception):
            raise made[1]
        return made[0]  # pyright: ignore[reportReturnType] # a broadcast forgets the type

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks of a small tensor."""
        if self.count > 1:
            dist.all_reduce(values)
            values = values / self.count
        return values

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether it is so on any rank."""
        if self.count == 1:
            return here
        flag = torch.tensor(float(here), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks."""
        if self.count == 1:
            return
        gradients = [each.grad for each in parameters if each.grad is not None]
        flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()


def device_of_this_rank(asked: str = "auto") -> torch.device:
    """The device that `asked` (auto, cpu, cuda, cuda:N) means for this process.

    `auto` is a GPU where there is one; without a number it is the one that `torchrun` means for
    this process, or the first. Raises UsageError for a device that is none, or is not here.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", asked):
        raise UsageError(f"no device {asked!r}; give auto, cpu, cuda or cuda:N")
    there = torch.cuda.device_count()
    if asked == "cpu" or (asked == "auto" and not there):
        return torch.device("cpu")
    number = asked.partition(":")[2]
    if number and "LOCAL_RANK" in os.environ:
        raise UsageError(f"torchrun gives each process a GPU of its own: give cuda, not {asked}")
    index = int(number or os.environ.get("LOCAL_RANK", "0"))
    if index >= there:
        raise UsageError(f"no CUDA device {index} is visible here ({there} are); give --device cpu")
    return torch.device("cuda", index)


@contextmanager
def joined(device: torch.device) -> Iterator[DistributedContext]:
    """Meet the other processes where `torchrun` started this one (it sets WORLD_SIZE, RANK,
    LOCAL_RANK, MASTER_ADDR and MASTER_PORT); alone otherwise."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield DistributedContext()
        return
    if lacking := [name for name in TORCHRUN_SETS if name not in os.environ]:
        raise UsageError(
            f"WORLD_SIZE is {count}, but {' and '.join(lacking)} not set: start several processes "
            "with torchrun, or unset WORLD_SIZE"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun's own store outlives the processes, so it still holds the addresses of those that
        # died. Its agents count starts each for itself: one that came later disagrees, which is why
        # several machines set TORCH_DISABLE_SHARE_RDZV_TCP_STORE and get a new store each time.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"start-{start}", store)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=count,
        timeout=TIMEOUT,
    )
    try:
        yield DistributedContext(rank=rank, count=count)
    finally:
        dist.destroy_process_group()
