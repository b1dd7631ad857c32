"""A step is the same whatever part of the batch goes through at a time, and stops at no memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from superres.model.archs import build
from training.loop.distributed import DistributedContext
from training.loop.state import TrainState, weight_bytes
from training.loop.step import BatchTooLarge, StepMetrics, TrainStep
from training.recipe import Recipe, load_recipe

CPU = torch.device("cpu")
GAN = {
    "losses": [
        {"name": "l1", "weight": 1.0},
        {"name": "gan", "weight": 0.1, "kind": "vanilla"},
        {"name": "ldl", "weight": 1.0},
    ],
    "discriminator": {"name": "unet", "parameters": {"num_feat": 2}, "learning_rate": 1e-3},
    "schedule": {"name": "multistep", "milestones": [], "factor": 0.5},
    "full__warmup_steps": 0,
}


@pytest.fixture
def recipe(recipe_file: Callable[..., Path]) -> Callable[..., Recipe]:
    return lambda **changes: load_recipe(str(recipe_file(**changes)))


def train_state(recipe: Recipe, net: nn.Module | None = None) -> TrainState:
    torch.manual_seed(recipe.seed)
    made = build(recipe.arch.name, recipe.arch.parameters)
    return TrainState(net or made, recipe, recipe.full, CPU)


def crops(count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    lr_bchw = torch.rand(count, 3, 8, 8, generator=generator)
    return lr_bchw, torch.rand(count, 3, 16, 16, generator=generator)


def weights(train_state: TrainState) -> list[Tensor]:
    return [value.clone() for each in train_state.all() for value in each.net.state_dict().values()]


def stepped(recipe: Recipe, micro_batch: int) -> tuple[list[dict[str, float]], list[Tensor]]:
    made = train_state(recipe)
    step = TrainStep(made, recipe, micro_batch, DistributedContext(), CPU)
    figures = [step(*crops()).values for _ in range(2)]
    return figures, weights(made)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_change_nothing(micro_batch: int, recipe: Callable[..., Recipe]) -> None:
    made = recipe()
    figures, moved = stepped(made, 5)
    others, moved_too = stepped(made, micro_batch)
    for one, other in zip(figures, others, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for one, other in zip(moved, moved_too, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_generator_and_discriminator_both_learn(recipe: Callable[..., Recipe]) -> None:
    made = recipe(**GAN)
    both = train_state(made)
    before = weights(both)
    step = TrainStep(both, made, 5, DistributedContext(), CPU)
    figures = step(*crops())
    assert set(figures.values) == {
        *(f"loss/{name}" for name in ("l1", "gan", "ldl", "discriminator_real")),
        "loss/discriminator_fake",
        "gradient_norm",
        "discriminator_gradient_norm",
    }
    assert figures.moved
    changed = [not torch.equal(*pair) for pair in zip(before, weights(both), strict=True)]
    generator = len(both.generator.net.state_dict())
    assert all(changed[:generator])
    assert any(changed[generator:])
    first = told_apart(figures)
    for _ in range(20):
        figures = step(*crops())
    assert told_apart(figures) < first


def told_apart(figures: StepMetrics) -> float:
    return sum(figures.values[f"loss/discriminator_{side}"] for side in ("real", "fake"))


class TooBig(nn.Module):
    """Says that memory is full where more crops than that come at once, after a first part."""

    def __init__(self, net: nn.Module, fits: int, error: Exception) -> None:
        super().__init__()
        self.net, self.fits, self.error = net, fits, error

    def forward(self, lr_bchw: Tensor) -> Tensor:
        if len(lr_bchw) > self.fits:
            raise self.error
        return self.net(lr_bchw)


FULL = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


@pytest.mark.parametrize("error", FULL)
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    error: Exception, recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe()
    _, expected = stepped(made, 5)
    torch.manual_seed(made.seed)
    small = train_state(made, TooBig(build(made.arch.name, made.arch.parameters), 2, error))
    step = TrainStep(small, made, 5, DistributedContext(), CPU)
    for _ in range(2):
        step(*crops())
    assert step.micro_batch == 2
    for one, other in zip(expected, weights(small), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    said = capsys.readouterr().err
    assert "out of memory with 5 crops at a time: going on with 3" in said
    assert "going on with 2; the batch stays 5" in said


def test_out_of_memory_with_one_crop_says_what_to_do(recipe: Callable[..., Recipe]) -> None:
    made = recipe()
    net = TooBig(build(made.arch.name, made.arch.parameters), 0, FULL[0])
    with pytest.raises(BatchTooLarge, match="smaller patches"):
        TrainStep(train_state(made, net), made, 1, DistributedContext(), CPU)(*crops())


def test_other_errors_are_not_taken_for_a_full_memory(recipe: Callable[..., Recipe]) -> None:
    made = recipe()
    net = TooBig(build(made.arch.name, made.arch.parameters), 0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        TrainStep(train_state(made, net), made, 5, DistributedContext(), CPU)(*crops())


def test_a_discriminator_that_is_no_number_is_named_and_nothing_moves(
    recipe: Callable[..., Recipe],
) -> None:
    made = recipe(**GAN)
    both = train_state(made)
    assert both.discriminator is not None
    both.discriminator.net.register_forward_hook(lambda *given: given[-1] * float("inf"))
    before = weights(both)
    learned = {id(each) for network in both.all() for each in network.parameters}
    figures = TrainStep(both, made, 5, DistributedContext(), CPU)(*crops())
    assert not figures.moved
    assert figures.bad[0] in ("loss/gan", "loss/discriminator_real")
    names = [
        id(parameter) in learned
        for network in both.all()
        for parameter in network.net.state_dict(keep_vars=True).values()
    ]
    for one, other, is_weight in zip(before, weights(both), names, strict=True):
        assert torch.equal(one, other) or not is_weight


def test_blocks_that_repeat_are_compiled_each_and_other_networks_whole(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[str, str | None]] = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, mode: compiled.append((type(self).__name__, mode))
    )
    made = recipe(compile=True)
    train_state(made)
    assert compiled == [("SRVGGNetCompact", None)]
    compiled.clear()
    parameters = {"num_feat": 8, "num_block": 2, "num_grow_ch": 8, "scale": 2}
    rrdb = recipe(compile=True, cuda_graphs=True, arch={"name": "rrdb", "parameters": parameters})
    train_state(rrdb)
    assert compiled == 2 * [("RRDB", "reduce-overhead")]


def test_the_weights_of_a_training_are_those_of_all_its_networks(
    recipe: Callable[..., Recipe],
) -> None:
    made = recipe(**GAN)
    both = train_state(made)
    nets = [network.net.state_dict().values() for network in both.all()]
    expected = sum(value.nbytes for values in nets for value in values)
    assert weight_bytes(both.generator.net, made) == expected
    assert weight_bytes(both.generator.net, recipe()) == sum(value.nbytes for value in nets[0])
