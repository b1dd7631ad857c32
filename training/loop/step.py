"""One step: crops through the networks, every loss looked at before a weight moves."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superres.common.console import say
from superres.common.errors import SharplineError
from training.loop.distributed import DistributedContext
from training.loop.features import load_features
from training.loop.losses import LossInputs, LossSum, discriminator_terms
from training.loop.state import TrainableNetwork, TrainState
from training.recipe import GanLoss, PerceptualLoss, Recipe

# What the CPU's allocator says; a GPU raises torch.OutOfMemoryError.
OUT_OF_MEMORY = "can't allocate memory"


class BatchTooLarge(SharplineError):
    """Not even one crop fits into the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What one step measured, and whether it moved the weights."""

    values: dict[str, float]
    moved: bool

    @property
    def bad(self) -> list[str]:
        """The values that are no numbers."""
        return [name for name, value in self.values.items() if not math.isfinite(value)]


class TrainStep:
    """Does the steps of a recipe. `micro_batch` crops go through at a time; it is halved where
    they do not fit, and the step stays the same."""

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
        features = next(
            (load_features(loss) for loss in recipe.losses if isinstance(loss, PerceptualLoss)),
            None,
        )
        discriminator = train_state.discriminator
        self._loss = LossSum(
            recipe.losses,
            LossInputs(
                features=features.to(device) if features else None,
                discriminator=self._discriminate if discriminator else None,
                ema=train_state.ema.output,
            ),
        )
        self._gan = next((loss for loss in recipe.losses if isinstance(loss, GanLoss)), None)

    def __call__(self, lr_bchw: Tensor, hr_bchw: Tensor) -> StepMetrics:
        """One step on a batch. The weights move only where every loss and gradient is a number."""
        sums = self._gradients_that_fit(lr_bchw, hr_bchw)
        names, values = list(sums), self._distributed.mean(torch.stack(list(sums.values())))
        norms = {}
        for network, name in zip(self._train_state.all(), ("", "discriminator_"), strict=False):
            self._distributed.average_gradients(network.parameters)
            norms[f"{name}gradient_norm"] = nn.utils.clip_grad_norm_(
                network.parameters, self._recipe.gradient_clip
            )
        # One wait for the device in each step: what is no number must not move a weight.
        everything = torch.cat([values, torch.stack(list(norms.values()))]).tolist()
        figures = dict(zip([*(f"loss/{name}" for name in names), *norms], everything, strict=True))
        moved = all(math.isfinite(value) for value in figures.values())
        for network in self._train_state.all():
            if moved:
                network.optimizer.step()
            network.optimizer.zero_grad(set_to_none=True)
        return StepMetrics(values=figures, moved=moved)

    def _gradients_that_fit(self, lr_bchw: Tensor, hr_bchw: Tensor) -> dict[str, Tensor]:
        while True:
            sums, too_large = None, False
            try:
                sums = self._gradients(lr_bchw, hr_bchw)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                too_large = True
            if not self._distributed.any(too_large, self._device):
                assert sums is not None, "it fitted"
                return sums
            self._halve(len(lr_bchw))

    def _halve(self, batch: int) -> None:
        for network in self._train_state.all():
            network.optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        before = min(self.micro_batch, batch)
        if before == 1:
            raise BatchTooLarge(
                "out of memory with one crop at a time: give smaller patches or a smaller network "
                "in the recipe, or a device with more memory. The checkpoints are whole"
            )
        self.micro_batch = math.ceil(before / 2)
        say(
            f"out of memory with {before} crops at a time: going on with {self.micro_batch}; the "
            f"batch stays {batch * self._distributed.count}, each step just takes longer"
        )

    def _gradients(self, lr_bchw: Tensor, hr_bchw: Tensor) -> dict[str, Tensor]:
        """Leave the batch's mean gradients in the networks; return the means of the terms."""
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
            # What recorded graphs put out before this may be overwritten from here on.
            torch.compiler.cudagraph_mark_step_begin()
        with ExitStack() as while_training_the_generator:
            if discriminator is not None:
                while_training_the_generator.enter_context(_frozen(discriminator))
            with self._reduced():
                output_bchw = self._train_state.generator.net(lr_bchw).float()
                total, terms = self._loss(output_bchw, hr_bchw, lr_bchw)
            (total * share).backward()
        if discriminator is not None:
            assert self._gan is not None, "a recipe with a discriminator has a gan loss"
            with self._reduced():
                its = discriminator_terms(
                    self._discriminate, output_bchw.detach(), hr_bchw, self._gan.kind
                )
            (sum(its.values(), start=hr_bchw.new_zeros(())) * share).backward()
            terms |= its
        return terms

    def _discriminate(self, bchw: Tensor) -> Tensor:
        discriminator = self._train_state.discriminator
        assert discriminator is not None, "only asked where there is one"
        return discriminator.net(bchw).float()

    def _reduced(self) -> torch.autocast:
        enabled = self._recipe.precision == "bf16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled)


@contextmanager
def _frozen(network: TrainableNetwork) -> Iterator[None]:
    """Gradients go through the network and not into it."""
    for parameter in network.parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in network.parameters:
            parameter.requires_grad_(True)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY in str(error)
