"""Training steps: gradient accumulation, out of memory, non-finite losses, compilation."""

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
    return [
        value.clone() for each in train_state.networks() for value in each.net.state_dict().values()
    ]


def run_steps(recipe: Recipe, micro_batch: int) -> tuple[list[dict[str, float]], list[Tensor]]:
    made = train_state(recipe)
    step = TrainStep(made, recipe, micro_batch, DistributedContext(), CPU)
    metrics = [step(*crops()).values for _ in range(2)]
    return metrics, weights(made)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_the_micro_batch_does_not_change_the_result(
    micro_batch: int, recipe: Callable[..., Recipe]
) -> None:
    made = recipe()
    metrics, updated = run_steps(made, 5)
    others, updated_too = run_steps(made, micro_batch)
    for one, other in zip(metrics, others, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for one, other in zip(updated, updated_too, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_generator_and_discriminator_both_learn(recipe: Callable[..., Recipe]) -> None:
    made = recipe(**GAN)
    state = train_state(made)
    before = weights(state)
    step = TrainStep(state, made, 5, DistributedContext(), CPU)
    metrics = step(*crops())
    assert set(metrics.values) == {
        *(f"loss/{name}" for name in ("l1", "gan", "ldl", "discriminator_real")),
        "loss/discriminator_fake",
        "gradient_norm",
        "discriminator_gradient_norm",
    }
    assert metrics.updated
    changed = [not torch.equal(*pair) for pair in zip(before, weights(state), strict=True)]
    generator = len(state.generator.net.state_dict())
    assert all(changed[:generator])
    assert any(changed[generator:])
    first = discriminator_loss(metrics)
    for _ in range(20):
        metrics = step(*crops())
    assert discriminator_loss(metrics) < first


def discriminator_loss(metrics: StepMetrics) -> float:
    return sum(metrics.values[f"loss/discriminator_{side}"] for side in ("real", "fake"))


class OutOfMemoryNet(nn.Module):
    """Raises an out-of-memory error for micro-batches of more than `fits` crops."""

    def __init__(self, net: nn.Module, fits: int, error: Exception) -> None:
        super().__init__()
        self.net, self.fits, self.error = net, fits, error

    def forward(self, lr_bchw: Tensor) -> Tensor:
        if len(lr_bchw) > self.fits:
            raise self.error
        return self.net(lr_bchw)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    error: Exception, recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe()
    _, expected = run_steps(made, 5)
    torch.manual_seed(made.seed)
    small = train_state(made, OutOfMemoryNet(build(made.arch.name, made.arch.parameters), 2, error))
    step = TrainStep(small, made, 5, DistributedContext(), CPU)
    for _ in range(2):
        step(*crops())
    assert step.micro_batch == 2
    for one, other in zip(expected, weights(small), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    stderr = capsys.readouterr().err
    assert "out of memory with a micro-batch of 5: retrying with 3" in stderr
    assert "retrying with 2; the batch stays 5" in stderr


def test_out_of_memory_with_one_crop_is_an_error_with_the_remedy(
    recipe: Callable[..., Recipe],
) -> None:
    made = recipe()
    net = OutOfMemoryNet(build(made.arch.name, made.arch.parameters), 0, OUT_OF_MEMORY[0])
    with pytest.raises(BatchTooLarge, match="smaller patches"):
        TrainStep(train_state(made, net), made, 1, DistributedContext(), CPU)(*crops())


def test_other_errors_are_not_handled_as_out_of_memory(recipe: Callable[..., Recipe]) -> None:
    made = recipe()
    net = OutOfMemoryNet(
        build(made.arch.name, made.arch.parameters), 0, RuntimeError("shapes differ")
    )
    with pytest.raises(RuntimeError, match="shapes differ"):
        TrainStep(train_state(made, net), made, 5, DistributedContext(), CPU)(*crops())


def test_a_nonfinite_discriminator_is_named_and_no_weight_is_updated(
    recipe: Callable[..., Recipe],
) -> None:
    made = recipe(**GAN)
    state = train_state(made)
    assert state.discriminator is not None
    state.discriminator.net.register_forward_hook(lambda *given: given[-1] * float("inf"))
    before = weights(state)
    trainable = {id(each) for network in state.networks() for each in network.parameters}
    metrics = TrainStep(state, made, 5, DistributedContext(), CPU)(*crops())
    assert not metrics.updated
    assert metrics.nonfinite[0] in ("loss/gan", "loss/discriminator_real")
    names = [
        id(parameter) in trainable
        for network in state.networks()
        for parameter in network.net.state_dict(keep_vars=True).values()
    ]
    for one, other, is_weight in zip(before, weights(state), names, strict=True):
        assert torch.equal(one, other) or not is_weight


def test_repeated_blocks_are_compiled_each_and_other_networks_whole(
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


def test_weight_bytes_counts_all_networks(
    recipe: Callable[..., Recipe],
) -> None:
    made = recipe(**GAN)
    state = train_state(made)
    nets = [network.net.state_dict().values() for network in state.networks()]
    expected = sum(value.nbytes for values in nets for value in values)
    assert weight_bytes(state.generator.net, made) == expected
    assert weight_bytes(state.generator.net, recipe()) == sum(value.nbytes for value in nets[0])
