"""Cost of building the batches of each recipe's full stage: CPU milliseconds on one core.

Steps that are faster than this wait for their data. Batches are drawn from the embedded pictures as
in training: crops, flips and turns, and degradations that run on the CPU. Degradations that run on
the device (see docs/training.md) are not included.

    python bench/training_feed.py
    python bench/training_feed.py compact_real_x4 --batches 50
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from training_common import build_sample

from superres.common.console import emit, show
from training.data.packs.crops import CropSampler
from training.data.packs.packs import Pack
from training.loop.online_degradation import OnlineDegradation
from training.loop.prefetch import BatchBuilder
from training.recipe import Recipe, load_recipe, recipe_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=recipe_names(), metavar="RECIPE")
    parser.add_argument("--batches", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipes = [load_recipe(name) for name in arguments.recipes]
    costs = {}
    show("| recipe | batch | LR side | milliseconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scales = {each.scale for each in recipes}
        packs = {scale: Pack(build_sample(scale, Path(folder))) for scale in scales}
        for recipe in recipes:
            stage = recipe.full
            costs[recipe.name] = _milliseconds(recipe, packs[recipe.scale], arguments.batches)
            side = stage.patches[-1].side
            show(f"| {recipe.name} | {stage.batch} | {side} | {costs[recipe.name]:.1f} |")
    emit(costs)


def _milliseconds(recipe: Recipe, pack: Pack, batches: int) -> float:
    stage, mix = recipe.full, recipe.mix()
    side = stage.patches[-1].side
    batch_builder = BatchBuilder(
        samplers={side: CropSampler(pack, patch=side, batch=stage.batch, seed=recipe.seed)},
        side=lambda step: side,
        degradation=OnlineDegradation(mix=mix, scale=recipe.scale, seed=recipe.seed)
        if mix
        else None,
        batch=stage.batch,
        part=slice(stage.batch),
        pin=False,
    )
    batch_builder.make(0)
    began = time.process_time()
    for step in range(1, batches + 1):
        batch_builder.make(step)
    return 1000 * (time.process_time() - began) / batches


if __name__ == "__main__":
    main()
