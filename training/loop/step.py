"""One training step; weights are updated only if all losses and gradient norms are finite."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superres.common.console import say
from superres.common.errors import SharplineError
from training.loop.distributed import DistributedContext
from training.loop.precision import effective_precision
from training.loop.state import TrainableNetwork, TrainState
from training.losses.gan import GanSettings, discriminator_terms
from training.losses.loss import LossInputs
from training.losses.loss_sum import LossSum
from training.recipe import Recipe

# Part of the CPU allocator's message; a GPU raises torch.OutOfMemoryError.
CPU_OUT_OF_MEMORY = "can't allocate memory"


class BatchTooLarge(SharplineError):
    """A single crop does not fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """Losses and gradient norms of one step, and whether the weights were updated."""

    values: dict[str, float]
    updated: bool

    @property
    def nonfinite(self) -> list[str]:
        """The names of the non-finite values."""
        return [name for name, value in self.values.items() if not math.isfinite(value)]


class TrainStep:
    """Runs training steps in `precision`, accumulating over micro-batches of `micro_batch` crops.

    Out of memory, it halves `micro_batch` and retries the step.
    """

    def __init__(
        self,
        train_state: TrainState,
        recipe: Recipe,
        micro_batch: int,
        distributed: DistributedContext,
        device: torch.device,
    ) -> None:
        self.micro_batch = micro_batch
        self._train_state, self._recipe = train_state, recipe
        self._distributed, self._device = distributed, device
        self.precision = effective_precision(recipe.precision, device)
        discriminator = train_state.discriminator
        self._loss = LossSum(
            recipe.losses,
            LossInputs(
                device=device,
                discriminator=self._discriminate if discriminator else None,
                ema=train_state.ema.output,
            ),
        )
        self._gan = next((loss for loss in recipe.losses if isinstance(loss, GanSettings)), None)

    def __call__(self, lr_bchw: Tensor, hr_bchw: Tensor) -> StepMetrics:
        """One step on a batch; skips the weight update if a loss or gradient is non-finite."""
        sums = self._gradients_within_memory(lr_bchw, hr_bchw)
        names, values = list(sums), self._distributed.mean(torch.stack(list(sums.values())))
        norms = {}
        for network, name in zip(
            self._train_state.networks(), ("", "discriminator_"), strict=False
        ):
            self._distributed.average_gradients(network.parameters)
            norms[f"{name}gradient_norm"] = nn.utils.clip_grad_norm_(
                network.parameters, self._recipe.gradient_clip
            )
        # The only device synchronisation of a step: the update depends on these values.
        flat = torch.cat([values, torch.stack(list(norms.values()))]).tolist()
        metrics = dict(zip([*(f"loss/{name}" for name in names), *norms], flat, strict=True))
        updated = all(math.isfinite(value) for value in metrics.values())
        for network in self._train_state.networks():
            if updated:
                network.optimizer.step()
            network.optimizer.zero_grad(set_to_none=True)
        return StepMetrics(values=metrics, updated=updated)

    def _gradients_within_memory(self, lr_bchw: Tensor, hr_bchw: Tensor) -> dict[str, Tensor]:
        while True:
            sums, out_of_memory = None, False
            try:
                sums = self._gradients(lr_bchw, hr_bchw)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                out_of_memory = True
            if not self._distributed.any(out_of_memory, self._device):
                assert sums is not None, "no rank ran out of memory"
                return sums
            self._halve_micro_batch(len(lr_bchw))

    def _halve_micro_batch(self, batch: int) -> None:
        for network in self._train_state.networks():
            network.optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        before = min(self.micro_batch, batch)
        if before == 1:
            raise BatchTooLarge(
                "out of memory with a micro-batch of 1: use smaller patches or a smaller network "
                "in the recipe, or a device with more memory. The checkpoints are intact"
            )
        self.micro_batch = math.ceil(before / 2)
        say(
            f"out of memory with a micro-batch of {before}: retrying with {self.micro_batch}; the "
            f"batch stays {batch * self._distributed.world_size}, steps take longer"
        )

    def _gradients(self, lr_bchw: Tensor, hr_bchw: Tensor) -> dict[str, Tensor]:
        """Accumulate the batch's mean gradients; return the mean of each loss term."""
        sums: dict[str, Tensor] = {}
        for lr, hr in zip(
            lr_bchw.split(self.micro_batch), hr_bchw.split(self.micro_batch), strict=True
        ):
            share = len(lr) / len(lr_bchw)
            for name, term in self._micro_step(lr, hr, share).items():
                sums[name] = sums.get(name, 0) + share * term.detach()
        return sums

    def _micro_step(self, lr_bchw: Tensor, hr_bchw: Tensor, share: float) -> Mapping[str, Tensor]:
        discriminator = self._train_state.discriminator
        if self._recipe.cuda_graphs:
            # Outputs of earlier CUDA graph replays may be overwritten from here on.
            torch.compiler.cudagraph_mark_step_begin()
        with ExitStack() as stack:
            if discriminator is not None:
                stack.enter_context(_frozen(discriminator))
            with self._autocast():
                output_bchw = self._train_state.generator.net(lr_bchw).float()
                total, terms = self._loss(output_bchw, hr_bchw, lr_bchw)
            (total * share).backward()
        if discriminator is not None:
            assert self._gan is not None, "a recipe with a discriminator has a gan loss"
            with self._autocast():
                discriminator_losses = discriminator_terms(
                    self._discriminate, output_bchw.detach(), hr_bchw, self._gan.kind
                )
            (sum(discriminator_losses.values(), start=hr_bchw.new_zeros(())) * share).backward()
            terms |= discriminator_losses
        return terms

    def _discriminate(self, bchw: Tensor) -> Tensor:
        discriminator = self._train_state.discriminator
        assert discriminator is not None, "only called if the recipe has a discriminator"
        return discriminator.net(bchw).float()

    def _autocast(self) -> torch.autocast:
        enabled = self.precision == "bf16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled)


@contextmanager
def _frozen(network: TrainableNetwork) -> Iterator[None]:
    """Freeze the parameters; gradients still flow through the network."""
    for parameter in network.parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in network.parameters:
            parameter.requires_grad_(True)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or CPU_OUT_OF_MEMORY in str(error)
