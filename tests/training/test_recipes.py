"""Every bundled recipe trains with its losses, degradation, optimizer and schedule, scaled down."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from superres.model.archs import build
from superres.model.bundle import Arch
from training.bundles.provenance import InitialWeights
from training.data.packs.crops import Batch
from training.loop import checkpoint
from training.loop.context import LoopContext
from training.loop.loop import TrainingLoop
from training.recipe import Recipe, load_recipe, parse_recipe, recipe_names
from training.weights.initial import check_same_network

ROOT = Path(__file__).parents[2]
SMALL_NETWORKS: dict[str, dict[str, Any]] = {
    "rrdb": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "compact": {"num_feat": 8, "num_conv": 2},
    "swinir": {"embed_dim": 12, "depths": [2], "num_heads": [2]},
    "srcnn": {"num_feat": 8, "num_map": 4},
    "vdsr": {"num_feat": 8, "num_conv": 3},
    "nafnet": {"width": 8, "enc_blk_nums": [1, 1, 1], "middle_blk_num": 1},
    "span": {"feature_channels": 8},
}
STEPS = 2


class NoiseSampler:
    """A sampler of noise crops, a function of the step."""

    def __init__(self, side: int, scale: int, batch: int) -> None:
        self._side, self._scale, self._batch = side, scale, batch

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        rng = np.random.default_rng(step)

        def crops(side: int) -> np.ndarray:
            return rng.integers(0, 256, (self._batch, side, side, 3), np.uint8)[part]

        return Batch(
            lr_bhwc_u8=crops(self._side),
            hr_bhwc_u8=crops(self._side * self._scale),
            names=("noise",) * len(range(self._batch)[part]),
        )


class RecordingTracker:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.values |= values


def shrunk(name: str) -> Recipe:
    """The recipe with a small network, discriminator and crops, which takes milliseconds.

    The perceptual loss is left out: it needs VGG weights, which are not part of Sharpline.
    """
    values = load_recipe(name).as_dict()
    values["arch"]["parameters"] |= SMALL_NETWORKS[values["arch"]["name"]]
    values["losses"] = [loss for loss in values["losses"] if loss["name"] != "perceptual"]
    grid = 8  # a multiple of every network's grid
    if values["discriminator"] is not None:
        values["discriminator"]["parameters"]["num_feat"] = 8
    needs_128 = (values["discriminator"] or {}).get("name") == "vgg"
    side = 32 if needs_128 else 2 * grid
    values["smoke"] |= {"steps": STEPS, "batch": 2, "patches": [{"since": 0.0, "side": side}]}
    values["smoke"] |= {"warmup_steps": 0, "checkpoint_every": 10, "validate_every": 10}
    return parse_recipe(yaml.safe_dump(values), origin=name)


@pytest.mark.filterwarnings("ignore")  # basicsr warns when a discriminator is built
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_trains(name: str, tmp_path: Path) -> None:
    recipe = shrunk(name)
    stage = recipe.smoke
    torch.manual_seed(0)
    net = build(recipe.arch.name, recipe.arch.parameters)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    side = stage.patch(0.0)

    def validate(weights: Mapping[str, Tensor], step: int) -> None:
        raise AssertionError("no validation is due in two steps")

    tracker = RecordingTracker()
    context = LoopContext(
        folder=tmp_path, tracker=tracker, validate=validate, device=torch.device("cpu")
    )
    sampler = NoiseSampler(side, recipe.scale, stage.batch)
    expected_loss = pixel_loss(net, sampler)
    trained = TrainingLoop(net, recipe, stage, {side: sampler}, context).run()
    assert trained.steps == STEPS
    assert all(value.isfinite().all() for value in trained.weights.values())
    assert all(
        not torch.equal(before[key], trained.weights[key]) for key, _ in net.named_parameters()
    )

    terms = [loss.name for loss in recipe.losses]
    if recipe.discriminator is not None:
        terms += ["discriminator_real", "discriminator_fake"]
        saved = checkpoint.load_newest(tmp_path)
        assert saved is not None
        optimizer = saved.state["discriminator"]["optimizer"]
        assert len(optimizer["state"]) == len(optimizer["param_groups"][0]["params"])
        assert all(state["exp_avg"].any() for state in optimizer["state"].values())
    losses = {key: value for key, value in tracker.values.items() if key.startswith("loss/")}
    assert losses.keys() == {f"loss/{term}" for term in terms}
    assert all(math.isfinite(value) for value in losses.values())
    if recipe.degradation is None:  # else the network's input is not the sampler's
        assert losses["loss/l1"] == pytest.approx(expected_loss, rel=0.02)


def pixel_loss(net: nn.Module, sampler: NoiseSampler) -> float:
    """The mean absolute error of the first steps' crops, before the training."""
    errors = []
    for step in range(STEPS):
        batch = sampler.batch(step)
        lr_bchw, hr_bchw = (
            torch.from_numpy(crops_bhwc).permute(0, 3, 1, 2) / 255
            for crops_bhwc in (batch.lr_bhwc_u8, batch.hr_bhwc_u8)
        )
        with torch.no_grad():
            errors.append((net(lr_bchw) - hr_bchw).abs().mean().item())
    return sum(errors) / STEPS


def initial_recipe(name: str) -> str | None:
    """The recipe whose weights the header of a recipe names as the initial ones."""
    header = (ROOT / "training" / "recipes" / f"{name}.yaml").read_text().partition("\nname:")[0]
    if "--init" not in header:
        return None
    for folder in re.findall(r"--init (models/\w+)", header):
        assert (ROOT / folder / "bundle.json").is_file()
    [other] = set(re.findall(r"\w+", header)) & set(recipe_names())
    return other


def test_the_initial_weights_that_a_recipe_names_fit_its_network() -> None:
    named = {name: initial for name in recipe_names() if (initial := initial_recipe(name))}
    adversarial = {name for name in recipe_names() if load_recipe(name).discriminator is not None}
    assert adversarial == {"esrgan_gan_x4", "realesrgan_x4"}
    assert adversarial | {"compact_real_x4", "span_real_x4"} <= named.keys()
    for name, initial in named.items():
        recipe, arch = load_recipe(name), load_recipe(initial).arch
        given = {"name": arch.name, "parameters": arch.parameters}
        weights = InitialWeights(
            name=initial,
            id=initial,
            bundle_id=None,
            arch=Arch.model_validate(given),
            weights={},
            datasets=(),
            licences=(),
            weights_licence=None,
        )
        check_same_network(recipe.arch.name, recipe.arch.parameters, weights)
        assert load_recipe(initial).discriminator is None
