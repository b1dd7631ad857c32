"""Going on equals never having stopped, byte for byte; what is no number stops the training."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from superres.common.errors import SharplineError
from superres.model.archs import build
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
class Notes:
    """A tracker that only remembers."""

    figures: dict[int, dict[str, float]] = field(default_factory=dict)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.figures[step] = dict(values)


class Killed(Exception):
    """Stands for the process dying between two steps."""


class MortalSampler(CropSampler):
    """Dies when the batch of a step is asked for."""

    dies_at: int | None = None

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        if step == self.dies_at:
            raise Killed
        return super().batch(step, part)


class Bench:
    """Builds loops that differ in nothing but what a test changes."""

    def __init__(self, recipe: Recipe, dataset: Path, folder: Path) -> None:
        self.recipe, self.folder, self.notes = recipe, folder, Notes()
        self.validated: list[int] = []
        stage = recipe.full
        self.samplers = {
            patch.side: MortalSampler(
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
    ) -> TrainingLoop:
        def note(weights: Mapping[str, Tensor], step: int) -> None:
            self.validated.append(step)

        if net is None:
            torch.manual_seed(self.recipe.seed)
            net = build(self.recipe.arch.name, self.recipe.arch.parameters)
        context = LoopContext(
            folder=self.folder,
            tracker=self.notes,
            validate=validate or note,
            device=torch.device("cpu"),
            distributed=distributed or DistributedContext(),
            **({"clock": clock} if clock else {}),
        )
        return TrainingLoop(net, self.recipe, self.recipe.full, self.samplers, context)


@pytest.fixture
def bench(recipe_file: Callable[..., Path], dataset: Path, tmp_path: Path) -> Callable[..., Bench]:
    counter = itertools.count()

    def make(**changes: object) -> Bench:
        recipe = load_recipe(str(recipe_file(**changes)))
        return Bench(recipe, dataset, tmp_path / f"checkpoints-{next(counter)}")

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


def test_training_brings_the_loss_down(bench: Callable[..., Bench]) -> None:
    made = bench(full__steps=120, full__validate_every=200)
    trained = made.loop().run()
    losses = [figures["loss/l1"] for figures in made.notes.figures.values()]
    assert trained.steps == 120
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("died_at", [1, 6, 11])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_going_on_equals_never_having_stopped(
    died_at: int, precision: str, bench: Callable[..., Bench]
) -> None:
    whole = bench(precision=precision).loop().run()
    broken = bench(precision=precision)
    broken.sampler.dies_at = died_at
    with pytest.raises(Killed):
        broken.loop().run()
    broken.sampler.dies_at = None
    again = broken.loop()
    assert again.resume() == (died_at >= 4)
    assert digest(again.run()) == digest(whole)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    bench: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = bench().loop().run()
    broken = bench()
    broken.sampler.dies_at = 9
    with pytest.raises(Killed):
        broken.loop().run()
    newest = broken.folder / "step-00000008.ckpt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.raises(BrokenCheckpoint, match="sha256 differs"):
        checkpoint.load(newest)
    broken.sampler.dies_at = None
    again = broken.loop()
    assert again.resume()
    assert "trying the one before" in capsys.readouterr().err
    assert digest(again.run()) == digest(whole)


def test_a_checkpoint_cut_short_is_refused(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.loop().run()
    (path,) = made.folder.glob("step-00000012.ckpt")
    for length in (0, 10, path.stat().st_size - 1):
        path.with_suffix(".cut").write_bytes(path.read_bytes()[:length])
        with pytest.raises(BrokenCheckpoint):
            checkpoint.load(path.with_suffix(".cut"))
    with pytest.raises(BrokenCheckpoint, match="cannot read"):
        checkpoint.load(made.folder / "none")


def test_old_checkpoints_are_removed(bench: Callable[..., Bench]) -> None:
    made = bench(full__checkpoint_every=2)
    made.loop().run()
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "step-00000010.ckpt",
        "step-00000012.ckpt",
    ]


def test_validation_runs_on_its_steps_but_the_last(bench: Callable[..., Bench]) -> None:
    made = bench(full__validate_every=4)
    made.loop().run()
    assert made.validated == [4, 8]


def test_a_time_limit_ends_training_with_the_learning_rate_down(
    bench: Callable[..., Bench],
) -> None:
    made = bench(full__steps=100_000, full__max_minutes=2.0, full__checkpoint_every=100_000)
    ticks = itertools.count(step=0.1)
    trained = made.loop(clock=lambda: float(next(ticks))).run()
    rates = [figures["learning_rate"] for figures in made.notes.figures.values()]
    assert 100 < trained.steps < 400
    assert 119 < trained.seconds < 125
    assert max(rates) > 20 * rates[-1]


class Second(DistributedContext):
    """A process whose own clock stands still, and is told what the first one's shows."""

    def from_first(self, make: Callable[[], Any]) -> Any:
        own = make()
        return own if own is None else own + 0.5


def test_every_process_goes_by_the_clock_of_the_first(bench: Callable[..., Bench]) -> None:
    """With a rate of its own each would train other weights."""
    made = bench(full__steps=100_000, full__max_minutes=2.0, full__warmup_steps=0)
    ticks = itertools.count(step=0.1)
    made.loop(clock=lambda: float(next(ticks)), distributed=Second()).run()
    first, *_ = made.notes.figures.values()
    assert first["learning_rate"] < 0.6 * made.recipe.full.learning_rate


@pytest.mark.parametrize("term", ["l1", "charbonnier", "mse"])
def test_a_loss_that_is_no_number_names_itself_the_step_and_the_pictures(
    term: str, bench: Callable[..., Bench]
) -> None:
    made = bench(losses=[{"name": term, "weight": 1.0}])
    net = build(made.recipe.arch.name, made.recipe.arch.parameters)

    class TurnsSour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = net, 0

        def forward(self, lr_bchw: Tensor) -> Tensor:
            self.calls += 1
            return self.net(lr_bchw) * (float("nan") if self.calls > 5 else 1.0)

    with pytest.raises(TrainingDiverged, match=rf"loss/{term} became nan at step 5 .*garden-0"):
        made.loop(net=TurnsSour()).run()
    last = checkpoint.load_newest(made.folder)
    assert last is not None
    assert last.step == 4
    assert all(value.isfinite().all() for value in last.state["generator"]["net"].values())


def test_a_gradient_that_is_no_number_stops_before_the_weights_change(
    bench: Callable[..., Bench],
) -> None:
    made = bench()
    net = build(made.recipe.arch.name, made.recipe.arch.parameters)
    next(iter(net.parameters())).register_hook(lambda gradient: gradient * float("inf"))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(TrainingDiverged, match="gradient_norm"):
        made.loop(net=net).run()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_average_follows_its_formula() -> None:
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


class SoursAt(nn.Module):
    """A network whose output is no number in some of its calls."""

    def __init__(self, recipe: Recipe, calls: set[int]) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        self.net = build(recipe.arch.name, recipe.arch.parameters)
        self.calls, self.sour = 0, calls

    def forward(self, lr_bchw: Tensor) -> Tensor:
        self.calls += 1
        return self.net(lr_bchw) * (float("nan") if self.calls - 1 in self.sour else 1.0)


def test_a_step_that_is_no_number_is_left_out_where_the_recipe_allows_it(
    bench: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    made = bench(max_nan_skips=2, full__checkpoint_every=1)
    trained = made.loop(net=SoursAt(made.recipe, {3, 4, 7})).run()
    assert trained.steps == 12
    assert all(value.isfinite().all() for value in trained.weights.values())
    said = capsys.readouterr().err
    assert "loss/l1 became nan at step 3 (pictures: garden-0" in said
    assert "step left out, 2 in a row of 2 allowed" in said
    last = checkpoint.load_newest(made.folder)
    assert last is not None
    assert (last.counters["nan_in_all"], last.counters["nan_in_a_row"]) == (3, 0)


def test_one_more_step_in_a_row_than_the_recipe_allows_ends_the_training(
    bench: Callable[..., Bench],
) -> None:
    made = bench(max_nan_skips=1)
    with pytest.raises(TrainingDiverged, match="at step 4"):
        made.loop(net=SoursAt(made.recipe, {3, 4})).run()


def test_a_step_left_out_changes_neither_weights_nor_average(bench: Callable[..., Bench]) -> None:
    sour = {8, 9, 10, 11}
    made = bench(max_nan_skips=4, full__checkpoint_every=8)
    trained = made.loop(net=SoursAt(made.recipe, sour)).run()
    before = checkpoint.load(made.folder / "step-00000008.ckpt").state["ema"]
    assert all(torch.equal(value, before[key]) for key, value in trained.weights.items())


def test_validations_that_gain_too_little_end_the_training(
    bench: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    made = bench(
        full__steps=100, full__validate_every=2, full__early_stop={"patience": 2, "min_gain": 0.1}
    )
    scores = iter([20.0, 20.2, 20.25, 20.29])
    trained = made.loop(validate=lambda weights, step: next(scores)).run()
    assert trained.steps == 8
    assert "2 validations in a row gained less than 0.1 dB on 20.20 dB" in capsys.readouterr().err


def test_small_gains_that_add_up_are_gains(bench: Callable[..., Bench]) -> None:
    made = bench(
        full__steps=14, full__validate_every=2, full__early_stop={"patience": 2, "min_gain": 0.1}
    )
    scores = iter([20.0, 20.06, 20.12, 20.18, 20.24, 20.3])
    assert made.loop(validate=lambda weights, step: next(scores)).run().steps == 14


def test_without_space_for_a_checkpoint_the_last_one_stays_and_training_goes_on(
    bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = bench()
    write = checkpoint.write_bytes

    def full_disk(path: Path, data: bytes) -> None:
        if "00000004" not in path.name:
            raise SharplineError(f"cannot write {path}: No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes", full_disk)
    assert made.loop().run().steps == 12
    assert "no checkpoint at step 8: cannot write" in capsys.readouterr().err
    last = checkpoint.load_newest(made.folder)
    assert last is not None
    assert last.step == 4


def test_where_the_disk_is_full_the_older_checkpoint_makes_room_for_the_new_one(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(full__checkpoint_every=2)
    write = checkpoint.write_bytes

    def room_for_two(path: Path, data: bytes) -> None:
        if len(list(path.parent.glob("*.ckpt"))) > 1:
            raise SharplineError(f"cannot write {path}: No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes", room_for_two)
    made.loop().run()
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "step-00000010.ckpt",
        "step-00000012.ckpt",
    ]


def test_a_training_that_cannot_fit_its_checkpoints_is_refused(tmp_path: Path) -> None:
    checkpoint.refuse_without_space(tmp_path / "not" / "yet", 1000)
    checkpoint.refuse_without_space(tmp_path, 10**18, there_bytes=12 * 10**18)
    with pytest.raises(SharplineError, match=r"MB of free space.* --out"):
        checkpoint.refuse_without_space(tmp_path, 10**18)


def test_a_checkpoint_of_another_version_says_so(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.loop().run()
    path = made.folder / "step-00000012.ckpt"
    path.write_bytes(path.read_bytes().replace(b"CHECKPOINT-3", b"CHECKPOINT-2", 1))
    with pytest.raises(BrokenCheckpoint, match="another version of Sharpline"):
        checkpoint.load(path)


def test_only_a_stage_without_a_clock_claims_to_be_exact(bench: Callable[..., Bench]) -> None:
    assert bench().loop().run().exact
    assert not bench(full__max_minutes=60.0).loop().run().exact


def test_going_on_with_other_threads_claims_nothing(
    bench: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    made = bench()
    made.sampler.dies_at = 6
    with pytest.raises(Killed):
        made.loop().run()
    made.sampler.dies_at = None
    torch.set_num_threads(2)
    for _ in range(2):  # also where it goes on once more under the same conditions
        again = made.loop()
        assert again.resume()
        assert not again.run().exact
    said = capsys.readouterr().err
    assert said.count("it broke off with 1 x 1 threads") == 1
    assert "goes on with 1 x 2 threads" in said


def test_a_memory_that_was_full_leaves_no_claim(bench: Callable[..., Bench]) -> None:
    made = bench()

    class TooBig(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build(made.recipe.arch.name, made.recipe.arch.parameters)

        def forward(self, lr_bchw: Tensor) -> Tensor:
            if len(lr_bchw) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.net(lr_bchw)

    assert not made.loop(net=TooBig()).run().exact


def test_patches_grow_on_the_way(bench: Callable[..., Bench]) -> None:
    sides = []

    class Notes(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, lr_bchw: Tensor) -> Tensor:
            sides.append(lr_bchw.shape[-1])
            return self.net(lr_bchw)

    made = bench(full__patches=[{"since": 0.0, "side": 8}, {"since": 0.5, "side": 12}])
    made.loop(net=Notes(build(made.recipe.arch.name, made.recipe.arch.parameters))).run()
    assert sides == 6 * [8] + 6 * [12]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_schedule_steps_down_at_its_milestones(
    optimizer: str, bench: Callable[..., Bench]
) -> None:
    made = bench(
        full__steps=40,
        full__warmup_steps=0,
        optimizer={"name": optimizer, "betas": [0.9, 0.99], "weight_decay": 0.0},
        schedule={"name": "multistep", "milestones": [0.45, 0.7], "factor": 0.5},
    )
    made.loop().run()
    rates = [figures["learning_rate"] for figures in made.notes.figures.values()]
    assert rates == pytest.approx([2e-3, 1e-3, 5e-4, 5e-4])


def test_a_training_shorter_than_a_report_is_reported_too(bench: Callable[..., Bench]) -> None:
    made = bench(full__steps=4)
    made.loop().run()
    assert list(made.notes.figures) == [4]
    assert made.notes.figures[4]["data_wait_seconds"] >= 0


def test_each_checkpoint_is_written_once(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, state: written.append(state.step))
    bench().loop().run()
    assert written == [4, 8, 12]
