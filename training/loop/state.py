"""What a training changes: networks, their average, optimizers; all that a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from training.loop.ema import ExponentialMovingAverage
from training.recipe import Cosine, Optimizer, Recipe, Schedule, Stage
from training.weights.basicsr_bridge import discriminator, mend_torchvision

Layout = torch.memory_format


class TrainableNetwork:
    """One network with its optimizer and its schedule: the generator or the discriminator."""

    def __init__(
        self,
        net: nn.Module,
        learning_rate: float,
        recipe: Recipe,
        stage: Stage,
        device: torch.device,
    ) -> None:
        # Its stub has no overload for the memory format alone.
        laid_out = net.to(device).to(memory_format=layout(recipe))  # pyright: ignore[reportCallIssue]
        self.net = laid_out.train()
        self.parameters = [each for each in self.net.parameters() if each.requires_grad]
        self.optimizer = _optimizer(self.parameters, learning_rate, recipe.optimizer)
        self._schedule = _schedule(self.optimizer, learning_rate, recipe.schedule, stage)
        self._steps = stage.steps

    def set_learning_rate(self, progress: float) -> float:
        """Follow the schedule to a share of the stage; return the rate there."""
        self._schedule.step_update(progress * self._steps)
        return self.optimizer.param_groups[0]["lr"]

    def state(self) -> dict[str, Any]:
        """Weights and the optimizer's memory; not a copy."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


class TrainState:
    """The generator with its average, and the discriminator where the recipe has one."""

    def __init__(self, net: nn.Module, recipe: Recipe, stage: Stage, device: torch.device) -> None:
        self.generator = TrainableNetwork(net, stage.learning_rate, recipe, stage, device)
        self.ema = ExponentialMovingAverage(self.generator.net, recipe.ema_decay)
        self.discriminator: TrainableNetwork | None = None
        if recipe.discriminator is not None:
            asked = recipe.discriminator
            self.discriminator = TrainableNetwork(
                discriminator(asked.name, asked.parameters),
                asked.learning_rate,
                recipe,
                stage,
                device,
            )
        if recipe.compile:
            _compile(self.generator.net, cuda_graphs=recipe.cuda_graphs)

    def all(self) -> list[TrainableNetwork]:
        """Generator first."""
        return [self.generator, *([self.discriminator] if self.discriminator else [])]

    def state(self) -> dict[str, Any]:
        """Everything, by part; not a copy."""
        return {
            "generator": self.generator.state(),
            "ema": self.ema.state_dict(),
            "discriminator": self.discriminator.state() if self.discriminator else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.generator.load(state["generator"])
        self.ema.load_state_dict(state["ema"])
        if self.discriminator is not None:
            self.discriminator.load(state["discriminator"])


def weight_bytes(net: nn.Module, recipe: Recipe) -> int:
    """What the weights of a training's networks weigh together, before they are all made."""
    nets = [net]
    if recipe.discriminator is not None:
        with torch.device("meta"):
            nets.append(discriminator(recipe.discriminator.name, recipe.discriminator.parameters))
    return sum(each.nbytes for net in nets for each in net.state_dict().values())


def layout(recipe: Recipe) -> Layout:
    """How pictures and weights lie in memory."""
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def _optimizer(
    parameters: list[nn.Parameter], learning_rate: float, asked: Optimizer
) -> torch.optim.Optimizer:
    """Fused: one kernel for all parameters, on the CPU too."""
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[asked.name]
    beta1, beta2 = asked.betas
    return make(
        parameters,
        lr=learning_rate,
        betas=(beta1, beta2),
        weight_decay=asked.weight_decay,
        fused=True,
    )


def _schedule(
    optimizer: torch.optim.Optimizer, learning_rate: float, asked: Schedule, stage: Stage
) -> Any:
    """timm's scheduler, counted in steps; it has no state but the step."""
    mend_torchvision()
    from timm.scheduler.cosine_lr import CosineLRScheduler
    from timm.scheduler.multistep_lr import MultiStepLRScheduler

    warm = {
        "warmup_t": stage.warmup_steps,
        "warmup_lr_init": learning_rate / (stage.warmup_steps + 1),
        "t_in_epochs": False,
    }
    if isinstance(asked, Cosine):
        lowest = asked.final * learning_rate
        return CosineLRScheduler(optimizer, t_initial=stage.steps, lr_min=lowest, **warm)
    milestones = [round(share * stage.steps) for share in asked.milestones]
    return MultiStepLRScheduler(
        optimizer, decay_t=milestones, decay_rate=asked.factor, warmup_prefix=False, **warm
    )


def _compile(net: nn.Module, *, cuda_graphs: bool) -> None:
    """Compile what repeats once, or the whole network where nothing does.

    A deep network's blocks share one compiled form, which takes a tenth of the time that all of
    them together would.
    """
    mode = "reduce-overhead" if cuda_graphs else None
    for block in _repeated_blocks(net) or [net]:
        block.compile(mode=mode)


def _repeated_blocks(net: nn.Module) -> list[nn.Module]:
    """The members of the longest row of modules of one class of ours."""
    rows = [
        list(row.children())
        for row in net.modules()
        if isinstance(row, nn.Sequential | nn.ModuleList)
    ]
    alike = [
        row
        for row in rows
        if len(row) > 1
        and len({type(block) for block in row}) == 1
        and not type(row[0]).__module__.startswith("torch.")
    ]
    return max(alike, key=len, default=[])
