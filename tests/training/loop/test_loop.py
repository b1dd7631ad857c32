"""The loop: bit-exact resume, checkpoints, early stopping, non-finite losses, progress."""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from superres.common.errors import SharplineError
from superres.model.archs import build
from training.bundles.held_out_crops import HeldOutCrops
from training.data.packs.crops import Batch, CropSampler
from training.data.packs.packs import Pack
from training.loop import checkpoint
from training.loop.checkpoint import BrokenCheckpoint
from training.loop.context import LoopContext, TrainingDiverged, TrainResult
from training.loop.distributed import DistributedContext
from training.loop.ema import ExponentialMovingAverage
from training.loop.loop import TrainingLoop
from training.recipe import Recipe, load_recipe


@dataclass
class RecordingTracker:
    """A tracker that records metrics by step."""

    logged: dict[int, dict[str, float]] = field(default_factory=dict)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.logged[step] = dict(values)


class SimulatedCrash(Exception):
    """Simulates that the process dies between two steps."""


class CrashingSampler(CropSampler):
    """Crashes when the batch of step `crash_at` is drawn."""

    crash_at: int | None = None

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        if step == self.crash_at:
            raise SimulatedCrash
        return super().batch(step, part)


class LoopFactory:
    """Builds identical loops, except for the arguments of a test."""

    def __init__(self, recipe: Recipe, dataset: Path, folder: Path) -> None:
        self.recipe, self.folder, self.tracker = recipe, folder, RecordingTracker()
        self.validated: list[int] = []
        stage = recipe.full
        self.samplers = {
            patch.side: CrashingSampler(
                Pack(dataset), patch=patch.side, batch=stage.batch, seed=recipe.seed
            )
            for patch in stage.patches
        }
        self.sampler = self.samplers[stage.patch(0.0)]

    def loop(
        self,
        clock: Callable[[], float] | None = None,
        net: nn.Module | None = None,
        validate: Callable[[Mapping[str, Tensor], int], float | None] | None = None,
        distributed: DistributedContext | None = None,
        crops: HeldOutCrops | None = None,
    ) -> TrainingLoop:
        def record_validation(weights: Mapping[str, Tensor], step: int) -> None:
            self.validated.append(step)

        if net is None:
            torch.manual_seed(self.recipe.seed)
            net = build(self.recipe.arch.name, self.recipe.arch.parameters)
        context = LoopContext(
            folder=self.folder,
            tracker=self.tracker,
            validate=validate or record_validation,
            device=torch.device("cpu"),
            crops=crops,
            distributed=distributed or DistributedContext(),
            **({"clock": clock} if clock else {}),
        )
        return TrainingLoop(net, self.recipe, self.recipe.full, self.samplers, context)


@pytest.fixture
def loop_factory(
    recipe_file: Callable[..., Path], dataset: Path, tmp_path: Path
) -> Callable[..., LoopFactory]:
    counter = itertools.count()

    def make(**changes: object) -> LoopFactory:
        recipe = load_recipe(str(recipe_file(**changes)))
        return LoopFactory(recipe, dataset, tmp_path / f"checkpoints-{next(counter)}")

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digest(trained: TrainResult) -> str:
    content = hashlib.sha256()
    for key, value in sorted(trained.weights.items()):
        content.update(key.encode() + value.numpy().tobytes())
    return content.hexdigest()


def test_training_reduces_the_loss(loop_factory: Callable[..., LoopFactory]) -> None:
    factory = loop_factory(full__steps=120, full__validate_every=200)
    trained = factory.loop().run()
    losses = [metrics["loss/l1"] for metrics in factory.tracker.logged.values()]
    assert trained.steps == 120
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("crash_at", [1, 6, 11])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_equals_uninterrupted(
    crash_at: int, precision: str, loop_factory: Callable[..., LoopFactory]
) -> None:
    whole = loop_factory(precision=precision).loop().run()
    crashed = loop_factory(precision=precision)
    crashed.sampler.crash_at = crash_at
    with pytest.raises(SimulatedCrash):
        crashed.loop().run()
    crashed.sampler.crash_at = None
    again = crashed.loop()
    assert again.resume() == (crash_at >= 4)
    assert digest(again.run()) == digest(whole)


def processor_with_bf16(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    capabilities = {"architecture": "x86_64", "avx512_bf16": native, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


def test_without_bf16_instructions_a_training_is_one_in_float32_and_says_so(
    loop_factory: Callable[..., LoopFactory],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    float32 = loop_factory(precision="fp32").loop().run()
    assert "instructions" not in capsys.readouterr().err
    processor_with_bf16(monkeypatch, False)
    trained = loop_factory(precision="bf16").loop().run()
    assert capsys.readouterr().err.count("no bf16 instructions: training in fp32") == 1
    assert digest(trained) == digest(float32)
    assert trained.repeatable == float32.repeatable


def test_a_training_resumed_in_another_precision_is_not_called_repeatable(
    loop_factory: Callable[..., LoopFactory],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    crashed = loop_factory(precision="bf16")
    crashed.sampler.crash_at = 9
    processor_with_bf16(monkeypatch, True)
    with pytest.raises(SimulatedCrash):
        crashed.loop().run()
    crashed.sampler.crash_at = None
    processor_with_bf16(monkeypatch, False)
    again = crashed.loop()
    assert again.resume()
    assert "will not be bit-identical" in capsys.readouterr().err
    assert not again.run().repeatable


def test_a_damaged_checkpoint_is_skipped_for_the_previous_one(
    loop_factory: Callable[..., LoopFactory], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = loop_factory().loop().run()
    crashed = loop_factory()
    crashed.sampler.crash_at = 9
    with pytest.raises(SimulatedCrash):
        crashed.loop().run()
    newest = crashed.folder / "step-00000008.ckpt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.raises(BrokenCheckpoint, match="sha256 does not match"):
        checkpoint.load(newest)
    crashed.sampler.crash_at = None
    again = crashed.loop()
    assert again.resume()
    assert "trying the previous one" in capsys.readouterr().err
    assert digest(again.run()) == digest(whole)


def test_a_truncated_checkpoint_is_refused(loop_factory: Callable[..., LoopFactory]) -> None:
    factory = loop_factory()
    factory.loop().run()
    (path,) = factory.folder.glob("step-00000012.ckpt")
    for length in (0, 10, path.stat().st_size - 1):
        path.with_suffix(".cut").write_bytes(path.read_bytes()[:length])
        with pytest.raises(BrokenCheckpoint):
            checkpoint.load(path.with_suffix(".cut"))
    with pytest.raises(BrokenCheckpoint, match="cannot read"):
        checkpoint.load(factory.folder / "none")


def test_old_checkpoints_are_removed(loop_factory: Callable[..., LoopFactory]) -> None:
    factory = loop_factory(full__checkpoint_every=2)
    factory.loop().run()
    assert sorted(path.name for path in factory.folder.iterdir()) == [
        "step-00000010.ckpt",
        "step-00000012.ckpt",
    ]


def test_validation_runs_periodically_but_not_at_the_end(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    factory = loop_factory(full__validate_every=4)
    factory.loop().run()
    assert factory.validated == [4, 8]


def test_a_time_limit_ends_training_with_a_decayed_learning_rate(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    factory = loop_factory(
        full__steps=100_000, full__max_minutes=2.0, full__checkpoint_every=100_000
    )
    ticks = itertools.count(step=0.1)
    trained = factory.loop(clock=lambda: float(next(ticks))).run()
    rates = [metrics["learning_rate"] for metrics in factory.tracker.logged.values()]
    assert 100 < trained.steps < 400
    assert 119 < trained.seconds < 125
    assert max(rates) > 20 * rates[-1]


class FakeCrops(HeldOutCrops):
    """Crops whose score is the number of times that they were scored; scoring takes `seconds`."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        self.bicubic_psnr, self.scored = 20.0, 0
        self._clock, self._seconds = clock, seconds

    def psnr(self, network: Callable[[torch.Tensor], torch.Tensor]) -> float:
        assert network(torch.zeros(1, 3, 8, 8)).shape[1] == 3
        self.scored += 1
        self._clock[0] += self._seconds - 1  # the next reading of the clock adds a second
        return float(self.scored)


def progress_lines(
    factory: LoopFactory, capsys: pytest.CaptureFixture[str], score_seconds: float
) -> list[str]:
    """Progress lines of a training whose clock advances by a second at each reading."""
    clock = [0.0]

    def now() -> float:
        clock[0] += 1
        return clock[0]

    factory.loop(clock=now, crops=FakeCrops(clock, score_seconds)).run()
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if "learning_rate" in line]


def test_progress_names_step_share_and_score_so_far(
    loop_factory: Callable[..., LoopFactory], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = progress_lines(loop_factory(full__steps=12), capsys, score_seconds=0.0)
    assert len(lines) >= 3
    for number, line in enumerate(lines, start=1):
        share, step = re.findall(r"(\d+)%  step (\d+) of 12", line)[0]
        assert round(100 * (int(step) - 1) / 12) == int(share)
        assert f"{number}.00 dB on held-out crops, bicubic 20.00 dB" in line


def test_slow_scores_are_left_out_of_most_progress_lines(
    loop_factory: Callable[..., LoopFactory], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = progress_lines(loop_factory(full__steps=60), capsys, score_seconds=5.0)
    scored = ["dB" in line for line in lines]
    assert scored[:3] == [True, False, False]
    assert 2 <= sum(scored) < len(scored) / 2


def test_scores_between_steps_do_not_change_the_weights(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    clock = [0.0]

    def now() -> float:
        clock[0] += 3
        return clock[0]

    plain = loop_factory().loop().run()
    scored = loop_factory().loop(clock=now, crops=FakeCrops(clock, 0.0)).run()
    assert digest(scored) == digest(plain)


class SecondRank(DistributedContext):
    """A rank whose clock is half of the training behind the clock of rank 0."""

    def from_rank_zero(self, make: Callable[[], Any]) -> Any:
        own = make()
        return own if own is None else own + 0.5


def test_every_rank_uses_the_clock_of_rank_zero(loop_factory: Callable[..., LoopFactory]) -> None:
    """With different learning rates the weights of the ranks would diverge."""
    factory = loop_factory(full__steps=100_000, full__max_minutes=2.0, full__warmup_steps=0)
    ticks = itertools.count(step=0.1)
    factory.loop(clock=lambda: float(next(ticks)), distributed=SecondRank()).run()
    first, *_ = factory.tracker.logged.values()
    assert first["learning_rate"] < 0.6 * factory.recipe.full.learning_rate


@pytest.mark.parametrize("term", ["l1", "charbonnier", "mse"])
def test_a_nonfinite_loss_is_reported_with_step_and_pictures(
    term: str, loop_factory: Callable[..., LoopFactory]
) -> None:
    factory = loop_factory(losses=[{"name": term, "weight": 1.0}])
    net = build(factory.recipe.arch.name, factory.recipe.arch.parameters)

    class TurnsNan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = net, 0

        def forward(self, lr_bchw: Tensor) -> Tensor:
            self.calls += 1
            return self.net(lr_bchw) * (float("nan") if self.calls > 5 else 1.0)

    with pytest.raises(TrainingDiverged, match=rf"loss/{term} is nan at step 5 .*garden-0"):
        factory.loop(net=TurnsNan()).run()
    last = checkpoint.load_newest(factory.folder)
    assert last is not None
    assert last.step == 4
    assert all(value.isfinite().all() for value in last.state["generator"]["net"].values())


def test_a_nonfinite_gradient_stops_before_the_weights_change(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    factory = loop_factory()
    net = build(factory.recipe.arch.name, factory.recipe.arch.parameters)
    next(iter(net.parameters())).register_hook(lambda gradient: gradient * float("inf"))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(TrainingDiverged, match="gradient_norm"):
        factory.loop(net=net).run()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_ema_follows_its_formula() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    ema = ExponentialMovingAverage(net, decay=0.5)
    expected = 0.0
    for update in range(1, 20):
        nn.init.constant_(net.weight, float(update))
        ema.update(net, update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert ema.state_dict()["weight"].item() == pytest.approx(expected)


class NanAtCalls(nn.Module):
    """A network whose output is NaN in some of its calls."""

    def __init__(self, recipe: Recipe, calls: set[int]) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        self.net = build(recipe.arch.name, recipe.arch.parameters)
        self.calls, self.nan_calls = 0, calls

    def forward(self, lr_bchw: Tensor) -> Tensor:
        self.calls += 1
        return self.net(lr_bchw) * (float("nan") if self.calls - 1 in self.nan_calls else 1.0)


def test_a_nonfinite_step_is_skipped_if_the_recipe_allows_it(
    loop_factory: Callable[..., LoopFactory], capsys: pytest.CaptureFixture[str]
) -> None:
    factory = loop_factory(max_nan_skips=2, full__checkpoint_every=1)
    trained = factory.loop(net=NanAtCalls(factory.recipe, {3, 4, 7})).run()
    assert trained.steps == 12
    assert all(value.isfinite().all() for value in trained.weights.values())
    stderr = capsys.readouterr().err
    assert "loss/l1 is nan at step 3 (pictures: garden-0" in stderr
    assert "step skipped, 2 of 2 in a row" in stderr
    last = checkpoint.load_newest(factory.folder)
    assert last is not None
    assert (last.counters["nan_total"], last.counters["nan_in_a_row"]) == (3, 0)


def test_one_skipped_step_too_many_ends_the_training(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    factory = loop_factory(max_nan_skips=1)
    with pytest.raises(TrainingDiverged, match="at step 4"):
        factory.loop(net=NanAtCalls(factory.recipe, {3, 4})).run()


def test_a_skipped_step_changes_neither_weights_nor_ema(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    nan_calls = {8, 9, 10, 11}
    factory = loop_factory(max_nan_skips=4, full__checkpoint_every=8)
    trained = factory.loop(net=NanAtCalls(factory.recipe, nan_calls)).run()
    before = checkpoint.load(factory.folder / "step-00000008.ckpt").state["ema"]
    assert all(torch.equal(value, before[key]) for key, value in trained.weights.items())


def test_early_stopping_ends_the_training(
    loop_factory: Callable[..., LoopFactory], capsys: pytest.CaptureFixture[str]
) -> None:
    factory = loop_factory(
        full__steps=100, full__validate_every=2, full__early_stop={"patience": 2, "min_gain": 0.1}
    )
    scores = iter([20.0, 20.2, 20.25, 20.29])
    trained = factory.loop(validate=lambda weights, step: next(scores)).run()
    assert trained.steps == 8
    assert "2 validations in a row gained less than 0.1 dB over 20.20 dB" in capsys.readouterr().err


def test_small_gains_add_up(loop_factory: Callable[..., LoopFactory]) -> None:
    factory = loop_factory(
        full__steps=14, full__validate_every=2, full__early_stop={"patience": 2, "min_gain": 0.1}
    )
    scores = iter([20.0, 20.06, 20.12, 20.18, 20.24, 20.3])
    assert factory.loop(validate=lambda weights, step: next(scores)).run().steps == 14


def test_on_a_full_disk_the_last_checkpoint_is_kept_and_training_continues(
    loop_factory: Callable[..., LoopFactory],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    factory = loop_factory()
    write = checkpoint.write_bytes

    def full_disk(path: Path, data: bytes) -> None:
        if "00000004" not in path.name:
            raise SharplineError(f"cannot write {path}: No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes", full_disk)
    assert factory.loop().run().steps == 12
    assert "no checkpoint at step 8: cannot write" in capsys.readouterr().err
    last = checkpoint.load_newest(factory.folder)
    assert last is not None
    assert last.step == 4


def test_on_a_full_disk_the_older_checkpoint_is_deleted_for_the_new_one(
    loop_factory: Callable[..., LoopFactory], monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = loop_factory(full__checkpoint_every=2)
    write = checkpoint.write_bytes

    def space_for_two(path: Path, data: bytes) -> None:
        if len(list(path.parent.glob("*.ckpt"))) > 1:
            raise SharplineError(f"cannot write {path}: No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes", space_for_two)
    factory.loop().run()
    assert sorted(path.name for path in factory.folder.iterdir()) == [
        "step-00000010.ckpt",
        "step-00000012.ckpt",
    ]


def test_too_little_space_for_the_checkpoints_is_refused(tmp_path: Path) -> None:
    checkpoint.check_free_space(tmp_path / "not" / "yet", 1000)
    checkpoint.check_free_space(tmp_path, 10**18, existing_bytes=12 * 10**18)
    with pytest.raises(SharplineError, match=r"MB of free space.* --out"):
        checkpoint.check_free_space(tmp_path, 10**18)


def test_a_checkpoint_of_another_version_is_refused(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    factory = loop_factory()
    factory.loop().run()
    path = factory.folder / "step-00000012.ckpt"
    path.write_bytes(path.read_bytes().replace(b"CHECKPOINT-4", b"CHECKPOINT-3", 1))
    with pytest.raises(BrokenCheckpoint, match="another version of Sharpline"):
        checkpoint.load(path)


def test_a_stage_with_a_time_limit_is_not_repeatable(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    assert loop_factory().loop().run().repeatable
    assert not loop_factory(full__max_minutes=60.0).loop().run().repeatable


def test_resuming_with_other_threads_is_not_repeatable(
    loop_factory: Callable[..., LoopFactory], capsys: pytest.CaptureFixture[str]
) -> None:
    factory = loop_factory()
    factory.sampler.crash_at = 6
    with pytest.raises(SimulatedCrash):
        factory.loop().run()
    factory.sampler.crash_at = None
    torch.set_num_threads(2)
    for _ in range(2):  # also if it is resumed again in the same environment
        again = factory.loop()
        assert again.resume()
        assert not again.run().repeatable
    stderr = capsys.readouterr().err
    assert stderr.count("interrupted with 1 x 1 threads") == 1
    assert "resumed with 1 x 2 threads" in stderr


def test_a_training_that_ran_out_of_memory_is_not_repeatable(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    factory = loop_factory()

    class OutOfMemoryNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build(factory.recipe.arch.name, factory.recipe.arch.parameters)

        def forward(self, lr_bchw: Tensor) -> Tensor:
            if len(lr_bchw) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.net(lr_bchw)

    assert not factory.loop(net=OutOfMemoryNet()).run().repeatable


def test_patches_grow_during_training(loop_factory: Callable[..., LoopFactory]) -> None:
    sides = []

    class RecordingNet(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, lr_bchw: Tensor) -> Tensor:
            sides.append(lr_bchw.shape[-1])
            return self.net(lr_bchw)

    factory = loop_factory(full__patches=[{"since": 0.0, "side": 8}, {"since": 0.5, "side": 12}])
    factory.loop(
        net=RecordingNet(build(factory.recipe.arch.name, factory.recipe.arch.parameters))
    ).run()
    assert sides == 6 * [8] + 6 * [12]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_schedule_steps_down_at_its_milestones(
    optimizer: str, loop_factory: Callable[..., LoopFactory]
) -> None:
    factory = loop_factory(
        full__steps=40,
        full__warmup_steps=0,
        optimizer={"name": optimizer, "betas": [0.9, 0.99], "weight_decay": 0.0},
        schedule={"name": "multistep", "milestones": [0.45, 0.7], "factor": 0.5},
    )
    factory.loop().run()
    rates = [metrics["learning_rate"] for metrics in factory.tracker.logged.values()]
    assert rates == pytest.approx([2e-3, 1e-3, 5e-4, 5e-4])


def test_a_training_shorter_than_the_report_interval_is_reported(
    loop_factory: Callable[..., LoopFactory],
) -> None:
    factory = loop_factory(full__steps=4)
    factory.loop().run()
    assert list(factory.tracker.logged) == [4]
    assert factory.tracker.logged[4]["data_wait_seconds"] >= 0


def test_each_checkpoint_is_written_once(
    loop_factory: Callable[..., LoopFactory], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, state: written.append(state.step))
    loop_factory().loop().run()
    assert written == [4, 8, 12]
