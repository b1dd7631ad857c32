"""The training loop: train, validate, checkpoint, resume."""

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
from training.loop.progress import ProgressLines
from training.loop.state import TrainState, memory_format
from training.loop.step import StepMetrics, TrainStep
from training.recipe import Recipe, Stage

REPORT_EVERY_STEPS = 10
PICTURES_NAMED = 8
DATA_WAIT = "data_wait_seconds"


@dataclass(slots=True)
class _Counters:
    """Counters of the loop, stored in checkpoints.

    `score_to_beat` is the last score that gained enough. `environment` (world size, threads, torch
    version, float32 instead of bf16) determines rounding; `environment_changed`: it changed on a
    resume.
    """

    nan_in_a_row: int = 0
    nan_total: int = 0
    score_to_beat: float = float("-inf")
    validations_without_gain: int = 0
    micro_batch: int = 0
    environment: str = ""
    environment_changed: bool = False


@dataclass(slots=True)
class _Window:
    """Metrics summed since the last report."""

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
    """Trains one network. Call `run` once; after a crash, construct a new loop and `resume` it.

    `samplers` are keyed by the side of their LR crops, one per patch side of the stage.
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
        part = context.distributed.batch_slice(stage.batch)
        self._train_state = TrainState(net, recipe, stage, context.device)
        self._train_step = TrainStep(
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
            micro_batch=self._train_step.micro_batch, environment=self._environment()
        )
        self._step, self._elapsed_before = 0, 0.0
        self._started = context.clock()

    def resume(self) -> bool:
        """Load the newest intact checkpoint of the folder; return False if there is none."""
        folder = self._context.folder
        saved = self._context.distributed.from_rank_zero(lambda: checkpoint.load_newest(folder))
        if saved is None:
            return False
        self._train_state.load(saved.state)
        current, self._counters = self._counters, _Counters(**saved.counters)
        if self._counters.environment != current.environment:
            self._say(
                f"interrupted with {self._counters.environment}, resumed with "
                f"{current.environment}: the result will not be bit-identical"
            )
            self._counters.environment = current.environment
            self._counters.environment_changed = True
        self._train_step.micro_batch = self._counters.micro_batch
        torch.set_rng_state(saved.torch_rng)
        if saved.cuda_rng:
            torch.cuda.set_rng_state(saved.cuda_rng[0], self._context.device)
        self._step, self._elapsed_before = saved.step, saved.elapsed_seconds
        return True

    def run(self) -> TrainResult:
        """Train to the end of the schedule or to the early stop.

        Raises TrainingDiverged naming the loss, the step and the pictures; checkpoints are kept.
        """
        stage, context = self._stage, self._context
        if self._train_step.precision != self._recipe.precision:
            self._say(
                f"this device has no {self._recipe.precision} instructions: training in "
                f"{self._train_step.precision}, which is faster here"
            )
        self._started = context.clock()
        window = _Window(context.clock())
        lines = ProgressLines(
            self._recipe.name, stage.steps, self._train_state.ema, context.crops, context.clock
        )
        with Prefetcher(self._batch_builder, self._step, stage.steps) as prefetcher:
            while not self._finished(progress := self._shared_progress()):
                learning_rate = self._set_learning_rate(progress)
                values = self._run_step(prefetcher)
                window.add(values)
                if self._step % REPORT_EVERY_STEPS == 0 or self._step == stage.steps:
                    self._report(window, learning_rate)
                    window = _Window(context.clock())
                if context.distributed.is_rank_zero:
                    shown = {name: value for name, value in values.items() if name != DATA_WAIT}
                    lines.say(progress, self._step, shown | {"learning_rate": learning_rate})
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
            repeatable=self._is_repeatable(),
        )

    def _environment(self) -> str:
        context, precision = self._context, self._train_step.precision
        threads = f"{context.distributed.world_size} x {torch.get_num_threads()} threads"
        instead = "" if precision == self._recipe.precision else f", {precision}"
        return f"{threads}, torch {torch.__version__}{instead}"

    def _is_repeatable(self) -> bool:
        """Whether the weights depend on nothing but recipe, data and software."""
        stage = self._stage
        by_clock_or_gpu = stage.max_minutes is not None or self._context.device.type != "cpu"
        halved = self._train_step.micro_batch != (stage.micro_batch or stage.batch)
        return not (by_clock_or_gpu or halved or self._counters.environment_changed)

    def _elapsed(self) -> float:
        return self._elapsed_before + self._context.clock() - self._started

    def _progress(self, step: int) -> float:
        """Progress from 0 to 1, by steps or by the clock, whichever is ahead."""
        by_steps = step / self._stage.steps
        if self._stage.max_minutes is None:
            return by_steps
        return max(by_steps, self._elapsed() / (60 * self._stage.max_minutes))

    def _shared_progress(self) -> float:
        """`_progress` by rank 0's clock: with clocks of their own the ranks would use different
        learning rates, and their weights would diverge."""
        if self._stage.max_minutes is None:
            return self._progress(self._step)
        return self._context.distributed.from_rank_zero(lambda: self._progress(self._step))

    def _finished(self, progress: float) -> bool:
        """Whether the schedule has ended or the early stop applies."""
        rule = self._stage.early_stop
        if rule is not None and self._counters.validations_without_gain >= rule.patience:
            return True
        return progress >= 1.0

    def _due(self, every: int) -> bool:
        """Whether a periodic action is due; never at the end of the training."""
        return self._step % every == 0 and not self._finished(self._shared_progress())

    def _set_learning_rate(self, progress: float) -> float:
        rates = [network.set_learning_rate(progress) for network in self._train_state.networks()]
        return rates[0]

    def _run_step(self, prefetcher: Prefetcher) -> dict[str, float]:
        started = self._context.clock()
        host_batch = prefetcher.take(self._step)
        waited = self._context.clock() - started
        lr_bchw, hr_bchw = to_device(
            host_batch, self._context.device, memory_format(self._recipe), self._recipe.scale
        )
        metrics = self._train_step(lr_bchw, hr_bchw)
        self._step += 1
        if metrics.updated:
            self._counters.nan_in_a_row = 0
            self._train_state.ema.update(self._train_state.generator.net, self._step)
            return metrics.values | {DATA_WAIT: waited}
        self._skip_step(metrics, host_batch)
        return {
            name: value for name, value in metrics.values.items() if name not in metrics.nonfinite
        }

    def _skip_step(self, metrics: StepMetrics, host_batch: HostBatch) -> None:
        """Skip the step, or raise TrainingDiverged after too many; the weights are unchanged."""
        counters, allowed = self._counters, self._recipe.max_nan_skips
        counters.nan_in_a_row += 1
        counters.nan_total += 1
        name = metrics.nonfinite[0]
        names = sorted(set(self._batch_builder.names(host_batch)))
        shown = ", ".join(names[:PICTURES_NAMED]) + (", ..." if len(names) > PICTURES_NAMED else "")
        reason = f"{name} is {metrics.values[name]} at step {self._step - 1} (pictures: {shown})"
        if counters.nan_in_a_row <= allowed:
            self._say(f"{reason}: step skipped, {counters.nan_in_a_row} of {allowed} in a row")
            return
        raise TrainingDiverged(
            f"{reason}. Earlier checkpoints are intact: lower the learning rate in the recipe, "
            "inspect those pictures, or increase max_nan_skips"
        )

    def _report(self, window: _Window, learning_rate: float) -> None:
        if self._context.distributed.is_rank_zero:
            means = window.means(self._context.clock()) | {"learning_rate": learning_rate}
            self._context.tracker.metrics(self._step, means)

    def _validate(self) -> None:
        """Score the EMA weights and count the validations that gain too little."""
        context, counters = self._context, self._counters
        score = context.distributed.from_rank_zero(
            lambda: context.validate(self._train_state.ema.state_dict(), self._step)
        )
        rule = self._stage.early_stop
        if rule is None or score is None:
            return
        # Small gains add up: each score is compared with the last one that gained enough.
        needed = counters.score_to_beat + rule.min_gain
        if score >= needed and score > counters.score_to_beat:
            counters.score_to_beat, counters.validations_without_gain = score, 0
        else:
            counters.validations_without_gain += 1
        if counters.validations_without_gain >= rule.patience:
            self._say(
                f"{rule.patience} validations in a row gained less than {rule.min_gain} dB over "
                f"{counters.score_to_beat:.2f} dB: stopping at step {self._step}"
            )

    def _save(self) -> None:
        """Write a checkpoint. If the disk is full, training continues with the previous one."""
        if not self._context.distributed.is_rank_zero:
            return
        cuda = self._context.device.type == "cuda"
        self._counters.micro_batch = self._train_step.micro_batch
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
            say(f"no checkpoint at step {self._step}: {error}. Training continues")

    def _say(self, text: str) -> None:
        if self._context.distributed.is_rank_zero:
            say(text)
