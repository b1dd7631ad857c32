"""The training loop: crops in, averaged weights out, and a state from which it goes on exactly."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from superres.common.console import say
from superres.common.errors import SharplineError
from training.loop import checkpoint
from training.loop.context import LoopContext, TrainingDiverged, TrainResult
from training.loop.online_degradation import OnlineDegradation
from training.loop.prefetch import BatchBuilder, HostBatch, Prefetcher, Sampler, to_device
from training.loop.state import TrainState, layout
from training.loop.step import StepMetrics, TrainStep
from training.recipe import Recipe, Stage

REPORT_EVERY_STEPS = 10
SAY_EVERY_SECONDS = 10.0
PICTURES_NAMED = 8
DATA_WAIT = "data_wait_seconds"


@dataclass(slots=True)
class _Counters:
    """What the loop remembers from step to step.

    `score_to_beat` is the last one that gained enough. `under` is what the order of sums depends on
    besides recipe and data; `moved`: it has not been the same all the time.
    """

    nan_in_a_row: int = 0
    nan_in_all: int = 0
    score_to_beat: float = float("-inf")
    validations_without_gain: int = 0
    micro_batch: int = 0
    under: str = ""
    moved: bool = False


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

    def means(self, now: float) -> dict[str, float]:
        means = {name: total / self.steps for name, total in self.sums.items()}
        return means | {"step_seconds": (now - self.started) / self.steps}


class TrainingLoop:
    """One training of one network. `run` may be called once; after a crash, build and run again.

    `samplers` are by the side of the LR crops that they draw: one for each of the stage's patches.
    """

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        stage: Stage,
        samplers: Mapping[int, Sampler],
        context: LoopContext,
    ) -> None:
        self._recipe, self._stage, self._context = recipe, stage, context
        part = context.distributed.part(stage.batch)
        self._train_state = TrainState(net, recipe, stage, context.device)
        self._train_step_fn = TrainStep(
            self._train_state,
            recipe,
            stage.micro_batch or stage.batch,
            context.distributed,
            context.device,
        )
        mix = recipe.mix()
        self._batch_builder = BatchBuilder(
            samplers=samplers,
            side=lambda step: stage.patch(min(self._progress(step), 1.0)),
            degradation=OnlineDegradation(mix=mix, scale=recipe.scale, seed=recipe.seed)
            if mix
            else None,
            batch=stage.batch,
            part=part,
            pin=context.device.type == "cuda",
        )
        self._counters = _Counters(
            micro_batch=self._train_step_fn.micro_batch,
            under=f"{context.distributed.count} x {torch.get_num_threads()} threads, torch "
            f"{torch.__version__}",
        )
        self._step, self._elapsed_before = 0, 0.0
        self._started = self._said = context.clock()

    def resume(self) -> bool:
        """Take up the newest whole checkpoint of the folder; False where there is none."""
        folder = self._context.folder
        found = self._context.distributed.from_first(lambda: checkpoint.load_newest(folder))
        if found is None:
            return False
        self._train_state.load(found.state)
        now, self._counters = self._counters, _Counters(**found.counters)
        if self._counters.under != now.under:
            self._say(
                f"it broke off with {self._counters.under} and goes on with {now.under}: these "
                "will not be the very bits that an unbroken run gives"
            )
            self._counters.under, self._counters.moved = now.under, True
        self._train_step_fn.micro_batch = self._counters.micro_batch
        torch.set_rng_state(found.torch_rng)
        if found.cuda_rng:
            torch.cuda.set_rng_state(found.cuda_rng[0], self._context.device)
        self._step, self._elapsed_before = found.step, found.elapsed_seconds
        return True

    def run(self) -> TrainResult:
        """Train to the end of the schedule, or until validations gain no more.

        Raises TrainingDiverged naming the loss, the step and the pictures; checkpoints stay.
        """
        stage, context = self._stage, self._context
        self._started = context.clock()
        window = _Window(context.clock())
        with Prefetcher(self._batch_builder, self._step, stage.steps) as prefetcher:
            while not self._over(progress := self._progress_of_all()):
                learning_rate = self._set_learning_rate(progress)
                values = self._train_step(prefetcher)
                window.add(values)
                if self._step % REPORT_EVERY_STEPS == 0 or self._step == stage.steps:
                    self._report(window, learning_rate)
                    window = _Window(context.clock())
                self._say_sometimes(progress, learning_rate, values)
                if self._due(stage.validate_every):
                    self._validate()
                if self._due(stage.checkpoint_every):
                    self._save()
        self._save()
        weights = {
            key: value.cpu().contiguous()
            for key, value in self._train_state.ema.state_dict().items()
        }
        return TrainResult(
            weights=weights,
            steps=self._step,
            seconds=self._elapsed(),
            exact=self._exact(),
        )

    def _exact(self) -> bool:
        """Whether nothing but recipe, data and software has had a say in the bits."""
        stage = self._stage
        by_clock_or_gpu = stage.max_minutes is not None or self._context.device.type != "cpu"
        halved = self._train_step_fn.micro_batch != (stage.micro_batch or stage.batch)
        return not (by_clock_or_gpu or halved or self._counters.moved)

    def _elapsed(self) -> float:
        return self._elapsed_before + self._context.clock() - self._started

    def _progress(self, step: int) -> float:
        """0 at the start to 1 at the end, by steps or by the clock, whichever is ahead."""
        by_steps = step / self._stage.steps
        if self._stage.max_minutes is None:
            return by_steps
        return max(by_steps, self._elapsed() / (60 * self._stage.max_minutes))

    def _progress_of_all(self) -> float:
        """`_progress` at this step by rank 0's clock: ranks that went by their own would train at
        different rates, and their weights would part."""
        if self._stage.max_minutes is None:
            return self._progress(self._step)
        return self._context.distributed.from_first(lambda: self._progress(self._step))

    def _over(self, progress: float) -> bool:
        """Whether the schedule has ended, or validations gain no more."""
        rule = self._stage.early_stop
        if rule is not None and self._counters.validations_without_gain >= rule.patience:
            return True
        return progress >= 1.0

    def _due(self, every: int) -> bool:
        """Whether it is time for what is done every so many steps, and again at the end."""
        return self._step % every == 0 and not self._over(self._progress_of_all())

    def _set_learning_rate(self, progress: float) -> float:
        rates = [network.set_learning_rate(progress) for network in self._train_state.all()]
        return rates[0]

    def _train_step(self, prefetcher: Prefetcher) -> dict[str, float]:
        asked = self._context.clock()
        host_batch = prefetcher.take(self._step)
        waited = self._context.clock() - asked
        lr_bchw, hr_bchw = to_device(
            host_batch, self._context.device, layout(self._recipe), self._recipe.scale
        )
        figures = self._train_step_fn(lr_bchw, hr_bchw)
        self._step += 1
        if figures.moved:
            self._counters.nan_in_a_row = 0
            self._train_state.ema.update(self._train_state.generator.net, self._step)
            return figures.values | {DATA_WAIT: waited}
        self._count_nan(figures, host_batch)
        return {name: value for name, value in figures.values.items() if name not in figures.bad}

    def _count_nan(self, figures: StepMetrics, host_batch: HostBatch) -> None:
        """Leave the step out, or stop by the recipe's rule; the weights are those from before."""
        counters, allowed = self._counters, self._recipe.max_nan_skips
        counters.nan_in_a_row += 1
        counters.nan_in_all += 1
        bad = figures.bad[0]
        names = sorted(set(self._batch_builder.names(host_batch)))
        shown = ", ".join(names[:PICTURES_NAMED]) + (", ..." if len(names) > PICTURES_NAMED else "")
        what = f"{bad} became {figures.values[bad]} at step {self._step - 1} (pictures: {shown})"
        if counters.nan_in_a_row <= allowed:
            self._say(
                f"{what}: step left out, {counters.nan_in_a_row} in a row of {allowed} allowed"
            )
            return
        raise TrainingDiverged(
            f"{what}. The weights and checkpoints before it are whole: lower the learning rate in "
            "the recipe, look at those pictures, or allow more max_nan_skips"
        )

    def _report(self, window: _Window, learning_rate: float) -> None:
        if self._context.distributed.first:
            means = window.means(self._context.clock()) | {"learning_rate": learning_rate}
            self._context.tracker.metrics(self._step, means)

    def _validate(self) -> None:
        """Score the averaged weights and count the validations that gain too little."""
        context, counters = self._context, self._counters
        score = context.distributed.from_first(
            lambda: context.validate(self._train_state.ema.state_dict(), self._step)
        )
        rule = self._stage.early_stop
        if rule is None or score is None:
            return
        # Small steps up add to each other: they are measured from the last score that gained.
        needed = counters.score_to_beat + rule.min_gain
        if score >= needed and score > counters.score_to_beat:
            counters.score_to_beat, counters.validations_without_gain = score, 0
        else:
            counters.validations_without_gain += 1
        if counters.validations_without_gain >= rule.patience:
            self._say(
                f"{rule.patience} validations in a row gained less than {rule.min_gain} dB on "
                f"{counters.score_to_beat:.2f} dB: stopping at step {self._step}"
            )

    def _save(self) -> None:
        """Write a checkpoint. Without space for it the training goes on, with the one before."""
        if not self._context.distributed.first:
            return
        cuda = self._context.device.type == "cuda"
        self._counters.micro_batch = self._train_step_fn.micro_batch
        state = checkpoint.Checkpoint(
            step=self._step,
            elapsed_seconds=self._elapsed(),
            state=self._train_state.state(),
            counters=asdict(self._counters),
            torch_rng=torch.get_rng_state(),
            cuda_rng=[torch.cuda.get_rng_state(self._context.device)] if cuda else [],
        )
        try:
            checkpoint.save(self._context.folder, state)
        except SharplineError as error:
            say(f"no checkpoint at step {self._step}: {error}. Training goes on")

    def _say_sometimes(
        self, progress: float, learning_rate: float, values: Mapping[str, float]
    ) -> None:
        now = self._context.clock()
        if now - self._said < SAY_EVERY_SECONDS:
            return
        self._said = now
        figures = "  ".join(
            f"{name} {value:.5f}" for name, value in values.items() if name != DATA_WAIT
        )
        self._say(
            f"{self._recipe.name}: {progress:4.0%}  step {self._step}  {figures}  "
            f"learning rate {learning_rate:.2e}"
        )

    def _say(self, text: str) -> None:
        if self._context.distributed.first:
            say(text)
