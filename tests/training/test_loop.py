"""Going on equals never having stopped, byte for byte; what is no number stops the training."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from superres.archs import build
from training import checkpoint
from training.checkpoint import BrokenCheckpoint
from training.data.crops import Batch, CropSampler
from training.data.packs import Pack
from training.ema import WeightAverage
from training.loop import Loop, Surroundings, Trained, TrainingDiverged
from training.losses import LossSum
from training.recipe import PixelLoss, Recipe, load_recipe


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
        self.sampler = MortalSampler(
            Pack(dataset), patch=stage.patch(0.0), batch=stage.batch, seed=recipe.seed
        )

    def loop(self, clock: Callable[[], float] | None = None, net: nn.Module | None = None) -> Loop:
        def validate(weights: Mapping[str, Tensor], step: int) -> None:
            self.validated.append(step)

        if net is None:
            torch.manual_seed(self.recipe.seed)
            net = build(self.recipe.arch.name, self.recipe.arch.parameters)
        around = Surroundings(
            folder=self.folder,
            tracker=self.notes,
            validate=validate,
            device=torch.device("cpu"),
            **({"clock": clock} if clock else {}),
        )
        samplers = {self.recipe.full.patch(0.0): self.sampler}
        return Loop(net, self.recipe, self.recipe.full, samplers, around)


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


def digest(trained: Trained) -> str:
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
    assert all(value.isfinite().all() for value in last.players["generator"]["net"].values())


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
    average = WeightAverage(net, decay=0.5)
    expected = 0.0
    for update in range(1, 20):
        nn.init.constant_(net.weight, float(update))
        average.update(net, update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert average.state_dict()["weight"].item() == pytest.approx(expected)


def test_losses_are_what_their_names_say() -> None:
    output, truth = torch.tensor([0.0, 0.5]), torch.tensor([0.3, 0.1])
    total, terms = LossSum([PixelLoss(name="l1", weight=2.0), PixelLoss(name="mse", weight=1.0)])(
        output, truth
    )
    assert terms["l1"].item() == pytest.approx(0.35)
    assert terms["mse"].item() == pytest.approx(0.125)
    assert total.item() == pytest.approx(0.825)
    _, round_bottom = LossSum([PixelLoss(name="charbonnier", weight=1.0)])(output, truth)
    assert round_bottom["charbonnier"].item() == pytest.approx(0.35, abs=1e-4)
