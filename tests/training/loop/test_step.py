"""Training steps: gradient accumulation, out of memory, non-finite losses, compilation."""

import json
import subprocess
import sys
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


def exceed_cpu_memory() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def exceed_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


class OutOfMemoryNet(nn.Module):
    """Runs out of memory for micro-batches of more than `fits` crops.

    From call `since` on, counted from 0; in the `backward` pass instead of the forward one.
    """

    def __init__(
        self,
        net: nn.Module,
        fits: int,
        exceed_memory: Callable[[], None],
        *,
        since: int = 0,
        backward: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.fits, self.exceed_memory = net, fits, exceed_memory
        self.since, self.backward = since, backward

    def forward(self, lr_bchw: Tensor) -> Tensor:
        self.since -= 1
        too_many = self.since < 0 and len(lr_bchw) > self.fits
        if too_many and not self.backward:
            self.exceed_memory()
        output_bchw = self.net(lr_bchw)
        if too_many:
            output_bchw.register_hook(lambda _: self.exceed_memory())
        return output_bchw


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("exceed_memory", [exceed_cpu_memory, exceed_gpu_memory])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    exceed_memory: Callable[[], None],
    backward: bool,
    recipe: Callable[..., Recipe],
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = recipe()
    _, expected = run_steps(made, 5)
    torch.manual_seed(made.seed)
    net = build(made.arch.name, made.arch.parameters)
    small = train_state(made, OutOfMemoryNet(net, 2, exceed_memory, backward=backward))
    step = TrainStep(small, made, 5, DistributedContext(), CPU)
    for _ in range(2):
        step(*crops())
    assert step.micro_batch == 2
    for one, other in zip(expected, weights(small), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    stderr = capsys.readouterr().err
    assert "out of memory with a micro-batch of 5: retrying with 3" in stderr
    assert "retrying with 2; the batch stays 5" in stderr


@pytest.mark.parametrize("backward", [False, True])
def test_out_of_memory_discards_the_gradients_of_earlier_micro_batches(
    backward: bool, recipe: Callable[..., Recipe]
) -> None:
    made = recipe()
    metrics, expected = run_steps(made, 5)
    torch.manual_seed(made.seed)
    net = build(made.arch.name, made.arch.parameters)
    net = OutOfMemoryNet(net, 1, exceed_cpu_memory, since=1, backward=backward)
    small = train_state(made, net)
    step = TrainStep(small, made, 2, DistributedContext(), CPU)
    for each in metrics:
        assert step(*crops()).values == pytest.approx(each, rel=1e-4)
    assert step.micro_batch == 1
    for one, other in zip(expected, weights(small), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_out_of_memory_with_one_crop_is_an_error_with_the_remedy(
    recipe: Callable[..., Recipe],
) -> None:
    made = recipe()
    net = OutOfMemoryNet(build(made.arch.name, made.arch.parameters), 0, exceed_cpu_memory)
    with pytest.raises(BatchTooLarge, match="smaller patches"):
        TrainStep(train_state(made, net), made, 1, DistributedContext(), CPU)(*crops())


def test_other_errors_are_not_handled_as_out_of_memory(recipe: Callable[..., Recipe]) -> None:
    def raise_another() -> None:
        raise RuntimeError("shapes differ")

    made = recipe()
    net = OutOfMemoryNet(build(made.arch.name, made.arch.parameters), 0, raise_another)
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


RRDB = {"name": "rrdb", "parameters": {"num_feat": 4, "num_block": 2, "num_grow_ch": 2, "scale": 2}}


@pytest.mark.parametrize(
    ("changes", "cuda_graphs", "graph"),
    [
        ({}, False, [4, None]),  # the whole network
        ({"arch": RRDB}, True, [15, "reduce-overhead"]),  # a block, once for both
    ],
)
def test_a_compiled_network_takes_the_same_steps_and_repeated_blocks_share_a_graph(
    changes: dict[str, object],
    cuda_graphs: bool,
    graph: list[int | str | None],
    recipe_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    recipes = [tmp_path / "plain.yaml", tmp_path / "compiled.yaml"]
    recipe_file(**changes).rename(recipes[0])
    recipe_file(compile=True, cuda_graphs=cuda_graphs, **changes).rename(recipes[1])
    script = Path(__file__).with_name("compiled_steps.py")
    done = subprocess.run(
        [sys.executable, script, *recipes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    plain, compiled = json.loads(done.stdout)
    assert plain["graphs"] == []
    assert compiled["graphs"] == [graph]
    for one, other in zip(plain["metrics"], compiled["metrics"], strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert compiled["weights"] == pytest.approx(plain["weights"], rel=1e-4, abs=1e-6)


def test_weight_bytes_counts_all_networks(
    recipe: Callable[..., Recipe],
) -> None:
    made = recipe(**GAN)
    state = train_state(made)
    nets = [network.net.state_dict().values() for network in state.networks()]
    expected = sum(value.nbytes for values in nets for value in values)
    assert weight_bytes(state.generator.net, made) == expected
    assert weight_bytes(state.generator.net, recipe()) == sum(value.nbytes for value in nets[0])
