"""Every bundled recipe trains with its losses, degradation, optimizer and schedule, scaled down."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from superres.model.archs import build
from training.data.packs.crops import Batch
from training.loop.context import LoopContext
from training.loop.loop import TrainingLoop
from training.recipe import Recipe, load_recipe, parse_recipe, recipe_names

SMALL_NETWORKS: dict[str, dict[str, Any]] = {
    "rrdb": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "compact": {"num_feat": 8, "num_conv": 2},
    "swinir": {"embed_dim": 12, "depths": [2], "num_heads": [2]},
    "srcnn": {"num_feat": 8, "num_map": 4},
    "vdsr": {"num_feat": 8, "num_conv": 3},
    "nafnet": {"width": 8, "enc_blk_nums": [1, 1, 1], "middle_blk_num": 1},
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

    context = LoopContext(
        folder=tmp_path, tracker=RecordingTracker(), validate=validate, device=torch.device("cpu")
    )
    sampler = NoiseSampler(side, recipe.scale, stage.batch)
    trained = TrainingLoop(net, recipe, stage, {side: sampler}, context).run()
    assert trained.steps == STEPS
    assert all(value.isfinite().all() for value in trained.weights.values())
    changed = [key for key in before if not torch.equal(before[key], trained.weights[key])]
    assert changed


def test_adversarial_recipes_name_their_initial_weights() -> None:
    for name in ("esrgan_gan_x4", "realesrgan_x4", "compact_real_x4"):
        text = (Path(__file__).parents[2] / "training" / "recipes" / f"{name}.yaml").read_text()
        assert "--init" in text.partition("\nname:")[0]
