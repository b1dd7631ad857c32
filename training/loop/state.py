"""The state of a training: networks, EMA and optimizers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from training.basicsr_bridge import discriminator, patch_torchvision
from training.loop.ema import ExponentialMovingAverage
from training.optimizers import OPTIMIZERS
from training.recipe import Cosine, Recipe, Schedule, Stage


class TrainableNetwork:
    """A network with its optimizer and schedule: the generator or the discriminator."""

    def __init__(
        self,
        net: nn.Module,
        learning_rate: float,
        recipe: Recipe,
        stage: Stage,
        device: torch.device,
    ) -> None:
        # torch's stub has no overload for the memory format alone.
        chosen = memory_format(recipe)
        on_device = net.to(device).to(memory_format=chosen)  # pyright: ignore[reportCallIssue]
        self.net = on_device.train()
        self.parameters = [each for each in self.net.parameters() if each.requires_grad]
        optimizer = OPTIMIZERS.get(recipe.optimizer.name)
        with OPTIMIZERS.failures_of(optimizer.name):
            self.optimizer = optimizer.build(self.parameters, learning_rate, recipe.optimizer)
            if not isinstance(self.optimizer, torch.optim.Optimizer):
                raise TypeError(f"`build` returned {type(self.optimizer).__name__}")
        self._schedule = _schedule(self.optimizer, learning_rate, recipe.schedule, stage)
        self._steps = stage.steps

    def set_learning_rate(self, progress: float) -> float:
        """Set and return the learning rate at a fraction of the stage."""
        self._schedule.step_update(progress * self._steps)
        return self.optimizer.param_groups[0]["lr"]

    def state(self) -> dict[str, Any]:
        """State dicts of the network and the optimizer; not a copy."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


class TrainState:
    """The generator, its EMA, and the discriminator if the recipe has one."""

    def __init__(self, net: nn.Module, recipe: Recipe, stage: Stage, device: torch.device) -> None:
        self.generator = TrainableNetwork(net, stage.learning_rate, recipe, stage, device)
        self.ema = ExponentialMovingAverage(self.generator.net, recipe.ema_decay)
        self.discriminator: TrainableNetwork | None = None
        if recipe.discriminator is not None:
            config = recipe.discriminator
            self.discriminator = TrainableNetwork(
                discriminator(config.name, config.parameters),
                config.learning_rate,
                recipe,
                stage,
                device,
            )
        if recipe.compile:
            _compile(self.generator.net, cuda_graphs=recipe.cuda_graphs)

    def networks(self) -> list[TrainableNetwork]:
        """Generator first."""
        return [self.generator, *([self.discriminator] if self.discriminator else [])]

    def state(self) -> dict[str, Any]:
        """The state of all parts by name; not a copy."""
        return {
            "generator": self.generator.state(),
            "ema": self.ema.state_dict(),
            "discriminator": self.discriminator.state() if self.discriminator else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.generator.load(state["generator"])
        self.ema.load_state_dict(state["ema"])
        if self.discriminator is not None:
            self.discriminator.load(state["discriminator"])


def weight_bytes(net: nn.Module, recipe: Recipe) -> int:
    """Size in bytes of the weights of all networks, computed before the discriminator exists."""
    nets = [net]
    if recipe.discriminator is not None:
        with torch.device("meta"):
            nets.append(discriminator(recipe.discriminator.name, recipe.discriminator.parameters))
    return sum(each.nbytes for net in nets for each in net.state_dict().values())


def memory_format(recipe: Recipe) -> torch.memory_format:
    """The memory format of pictures and weights."""
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def _schedule(
    optimizer: torch.optim.Optimizer, learning_rate: float, config: Schedule, stage: Stage
) -> Any:
    """timm's scheduler, counted in steps; the step is its only state."""
    patch_torchvision()
    from timm.scheduler.cosine_lr import CosineLRScheduler
    from timm.scheduler.multistep_lr import MultiStepLRScheduler

    warmup = {
        "warmup_t": stage.warmup_steps,
        "warmup_lr_init": learning_rate / (stage.warmup_steps + 1),
        "t_in_epochs": False,
    }
    if isinstance(config, Cosine):
        lowest = config.final * learning_rate
        return CosineLRScheduler(optimizer, t_initial=stage.steps, lr_min=lowest, **warmup)
    milestones = [round(share * stage.steps) for share in config.milestones]
    return MultiStepLRScheduler(
        optimizer, decay_t=milestones, decay_rate=config.factor, warmup_prefix=False, **warmup
    )


def _compile(net: nn.Module, *, cuda_graphs: bool) -> None:
    """Compile the repeated blocks, or the whole network if there are none.

    Repeated blocks share one compilation, which takes a tenth of the time of the whole network's.
    """
    mode = "reduce-overhead" if cuda_graphs else None
    for block in _repeated_blocks(net) or [net]:
        block.compile(mode=mode)


def _repeated_blocks(net: nn.Module) -> list[nn.Module]:
    """The longest sequence of modules of one class that is not torch's own."""
    sequences = [
        list(sequence.children())
        for sequence in net.modules()
        if isinstance(sequence, nn.Sequential | nn.ModuleList)
    ]
    repeated = [
        sequence
        for sequence in sequences
        if len(sequence) > 1
        and len({type(block) for block in sequence}) == 1
        and not type(sequence[0]).__module__.startswith("torch.")
    ]
    return max(repeated, key=len, default=[])
