"""One step: crops through the networks, every loss looked at before a weight moves."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superres.common.console import say
from superres.common.errors import SharplineError
from training.loop.distributed import Ranks
from training.loop.features import load_features
from training.loop.losses import Helpers, LossSum, discriminator_terms
from training.loop.state import Player, Players
from training.recipe import GanLoss, PerceptualLoss, Recipe

# What the CPU's allocator says; a GPU raises torch.OutOfMemoryError.
OUT_OF_MEMORY = "can't allocate memory"


class TooLarge(SharplineError):
    """Not even one crop fits into the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one step measured, and whether it moved the weights."""

    values: dict[str, float]
    moved: bool

    @property
    def bad(self) -> list[str]:
        """The values that are no numbers."""
        return [name for name, value in self.values.items() if not math.isfinite(value)]


class Stepper:
    """Does the steps of a recipe. `micro_batch` crops go through at a time; it is halved where
    they do not fit, and the step stays the same."""

    def __init__(
        self,
        players: Players,
        recipe: Recipe,
        micro_batch: int,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self.micro_batch = micro_batch
        self._players, self._recipe = players, recipe
        self._ranks, self._device = ranks, device
        features = next(
            (load_features(loss) for loss in recipe.losses if isinstance(loss, PerceptualLoss)),
            None,
        )
        judge = players.discriminator
        self._loss = LossSum(
            recipe.losses,
            Helpers(
                features=features.to(device) if features else None,
                judge=self._judge if judge else None,
                average=players.average.output,
            ),
        )
        self._gan = next((loss for loss in recipe.losses if isinstance(loss, GanLoss)), None)

    def __call__(self, lr_bchw: Tensor, hr_bchw: Tensor) -> Figures:
        """One step on a batch. The weights move only where every loss and gradient is a number."""
        sums = self._gradients_that_fit(lr_bchw, hr_bchw)
        names, values = list(sums), self._ranks.mean(torch.stack(list(sums.values())))
        norms = {}
        for player, name in zip(self._players.all(), ("", "discriminator_"), strict=False):
            self._ranks.average_gradients(player.parameters)
            norms[f"{name}gradient_norm"] = nn.utils.clip_grad_norm_(
                player.parameters, self._recipe.gradient_clip
            )
        # One wait for the device in each step: what is no number must not move a weight.
        everything = torch.cat([values, torch.stack(list(norms.values()))]).tolist()
        figures = dict(zip([*(f"loss/{name}" for name in names), *norms], everything, strict=True))
        moved = all(math.isfinite(value) for value in figures.values())
        for player in self._players.all():
            if moved:
                player.optimizer.step()
            player.optimizer.zero_grad(set_to_none=True)
        return Figures(values=figures, moved=moved)

    def _gradients_that_fit(self, lr_bchw: Tensor, hr_bchw: Tensor) -> dict[str, Tensor]:
        while True:
            sums, too_large = None, False
            try:
                sums = self._gradients(lr_bchw, hr_bchw)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                too_large = True
            if not self._ranks.any(too_large, self._device):
                assert sums is not None, "it fitted"
                return sums
            self._halve(len(lr_bchw))

    def _halve(self, batch: int) -> None:
        for player in self._players.all():
            player.optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        before = min(self.micro_batch, batch)
        if before == 1:
            raise TooLarge(
                "out of memory with one crop at a time: give smaller patches or a smaller network "
                "in the recipe, or a device with more memory. The checkpoints are whole"
            )
        self.micro_batch = math.ceil(before / 2)
        say(
            f"out of memory with {before} crops at a time: going on with {self.micro_batch}; the "
            f"batch stays {batch * self._ranks.count}, each step just takes longer"
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
        judge = self._players.discriminator
        if self._recipe.cuda_graphs:
            # What recorded graphs put out before this may be overwritten from here on.
            torch.compiler.cudagraph_mark_step_begin()
        with ExitStack() as while_training_the_generator:
            if judge is not None:
                while_training_the_generator.enter_context(_frozen(judge))
            with self._reduced():
                output_bchw = self._players.generator.net(lr_bchw).float()
                total, terms = self._loss(output_bchw, hr_bchw, lr_bchw)
            (total * share).backward()
        if judge is not None:
            assert self._gan is not None, "a recipe with a discriminator has a gan loss"
            with self._reduced():
                its = discriminator_terms(
                    self._judge, output_bchw.detach(), hr_bchw, self._gan.kind
                )
            (sum(its.values(), start=hr_bchw.new_zeros(())) * share).backward()
            terms |= its
        return terms

    def _judge(self, bchw: Tensor) -> Tensor:
        judge = self._players.discriminator
        assert judge is not None, "only asked where there is one"
        return judge.net(bchw).float()

    def _reduced(self) -> torch.autocast:
        enabled = self._recipe.precision == "bf16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled)


@contextmanager
def _frozen(player: Player) -> Iterator[None]:
    """Gradients go through the network and not into it."""
    for parameter in player.parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in player.parameters:
            parameter.requires_grad_(True)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY in str(error)
