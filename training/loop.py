"""The training loop: crops in, averaged weights out, and a state from which it goes on exactly."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from superres.console import say
from superres.errors import SharplineError
from training import checkpoint
from training.data.crops import CropSampler
from training.ema import WeightAverage
from training.losses import LossSum
from training.recipe import Cosine, Recipe, Stage

REPORT_EVERY_STEPS = 10
SAY_EVERY_SECONDS = 10.0


class TrainingDiverged(SharplineError):
    """A loss or the gradient is no longer a number."""


class Tracker(Protocol):
    """Whoever is told how the training goes; must neither raise nor wait."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the loop is handed besides its recipe and data.

    `validate` gets the averaged weights and the step; `clock` counts seconds.
    """

    folder: Path
    tracker: Tracker
    validate: Callable[[Mapping[str, Tensor], int], object]
    device: torch.device
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came out: averaged weights by state-dict key, on the CPU."""

    weights: dict[str, Tensor]
    steps: int
    seconds: float


@dataclass(slots=True)
class _Window:
    """Figures gathered since the last report."""

    started: float
    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: total / self.steps for name, total in self.sums.items()}


class Loop:
    """One training of one network. `run` may be called once; after a crash, build and run again."""

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        stage: Stage,
        sampler: CropSampler,
        around: Surroundings,
    ) -> None:
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        # Its stub has no overload for the memory format alone.
        laid_out = net.to(around.device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        self._net = laid_out.train()
        self._layout = layout
        self._recipe, self._stage, self._sampler, self._around = recipe, stage, sampler, around
        self._average = WeightAverage(self._net, recipe.ema_decay)
        self._loss = LossSum(recipe.losses)
        beta1, beta2 = recipe.optimizer.betas
        make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer.name]
        self._optimizer = make(
            self._net.parameters(),
            lr=stage.learning_rate,
            betas=(beta1, beta2),
            weight_decay=recipe.optimizer.weight_decay,
        )
        self._step, self._elapsed_before = 0, 0.0
        self._started = around.clock()

    def resume(self) -> bool:
        """Take up the newest whole checkpoint of the folder; False where there is none."""
        found = checkpoint.load_newest(self._around.folder)
        if found is None:
            return False
        self._net.load_state_dict(found.net)
        self._average.load_state_dict(found.average)
        self._optimizer.load_state_dict(found.optimizer)
        torch.set_rng_state(found.torch_rng)
        if found.cuda_rng:
            torch.cuda.set_rng_state_all(found.cuda_rng)
        self._step, self._elapsed_before = found.step, found.elapsed_seconds
        return True

    def run(self) -> Trained:
        """Train to the end of the schedule.

        Raises TrainingDiverged naming the loss, the step and the pictures; checkpoints stay.
        """
        stage, around = self._stage, self._around
        self._started = around.clock()
        window, said = _Window(around.clock()), around.clock()
        while (progress := self._progress()) < 1.0:
            learning_rate = self._set_learning_rate(progress)
            values = self._train_step()
            window.add(values)
            if self._step % REPORT_EVERY_STEPS == 0:
                window = self._report(window, learning_rate)
            if around.clock() - said >= SAY_EVERY_SECONDS:
                said = around.clock()
                say(self._line(progress, learning_rate, values))
            if self._step % stage.checkpoint_every == 0:
                self._save()
            if self._step % stage.validate_every == 0 and self._progress() < 1.0:
                around.validate(self._average.state_dict(), self._step)
        self._save()
        weights = {
            key: value.cpu().contiguous() for key, value in self._average.state_dict().items()
        }
        return Trained(weights=weights, steps=self._step, seconds=self._elapsed())

    def _elapsed(self) -> float:
        return self._elapsed_before + self._around.clock() - self._started

    def _progress(self) -> float:
        """0 at the start to 1 at the end, by steps or by the clock, whichever is ahead."""
        by_steps = self._step / self._stage.steps
        if self._stage.max_minutes is None:
            return by_steps
        return max(by_steps, self._elapsed() / (60 * self._stage.max_minutes))

    def _set_learning_rate(self, progress: float) -> float:
        """Linear warm-up by steps, then the recipe's schedule."""
        schedule = self._recipe.schedule
        if isinstance(schedule, Cosine):
            final = schedule.final
            share = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
        else:
            share = schedule.factor ** sum(progress >= at for at in schedule.milestones)
        warm = min(1.0, (self._step + 1) / (self._stage.warmup_steps + 1))
        learning_rate = self._stage.learning_rate * share * warm
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    def _train_step(self) -> dict[str, float]:
        batch = self._sampler.batch(self._step)
        lr_bchw, hr_bchw = self._bchw(batch.lr_bhwc_u8), self._bchw(batch.hr_bhwc_u8)
        reduced = self._recipe.precision == "bf16"
        with torch.autocast(self._around.device.type, dtype=torch.bfloat16, enabled=reduced):
            output_bchw = self._net(lr_bchw)
        total, terms = self._loss(output_bchw.float(), hr_bchw)
        values = {f"loss/{name}": term.item() for name, term in terms.items()}
        self._refuse_nan(values, batch.names)
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self._net.parameters(), self._recipe.gradient_clip)
        values["gradient_norm"] = norm.item()
        self._refuse_nan(values, batch.names)
        self._optimizer.step()
        self._step += 1
        self._average.update(self._net, self._step)
        return values

    def _bchw(self, bhwc_u8: npt.NDArray[np.uint8]) -> Tensor:
        bchw = torch.from_numpy(bhwc_u8).to(self._around.device).permute(0, 3, 1, 2)
        return bchw.to(torch.float32, memory_format=self._layout) / 255

    def _refuse_nan(self, values: Mapping[str, float], names: tuple[str, ...]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"{name} became {value} at step {self._step} (pictures: "
                    f"{', '.join(sorted(set(names)))}). The checkpoints before it are whole: lower "
                    "the learning rate in the recipe, or look at those pictures"
                )

    def _save(self) -> None:
        cuda = self._around.device.type == "cuda"
        checkpoint.save(
            self._around.folder,
            checkpoint.Checkpoint(
                step=self._step,
                elapsed_seconds=self._elapsed(),
                net=self._net.state_dict(),
                average=self._average.state_dict(),
                optimizer=self._optimizer.state_dict(),
                torch_rng=torch.get_rng_state(),
                cuda_rng=torch.cuda.get_rng_state_all() if cuda else [],
            ),
        )

    def _report(self, window: _Window, learning_rate: float) -> _Window:
        now = self._around.clock()
        self._around.tracker.metrics(
            self._step,
            window.means()
            | {
                "learning_rate": learning_rate,
                "step_seconds": (now - window.started) / window.steps,
            },
        )
        return _Window(now)

    def _line(self, progress: float, learning_rate: float, values: Mapping[str, float]) -> str:
        figures = "  ".join(f"{name} {value:.5f}" for name, value in values.items())
        return (
            f"{self._recipe.name}: {progress:4.0%}  step {self._step}  {figures}  "
            f"learning rate {learning_rate:.2e}"
        )
