"""Milliseconds per training step on a CUDA device, with the code of the training loop.

    python bench/gpu/train_step.py --recipe esrgan_x4 --batch 16 --patch 32         # HR 128
    python bench/gpu/train_step.py --recipe swinir_light_x4 --batch 32 --patch 64
    python bench/gpu/train_step.py ... --compile --cuda-graphs

Crops come from memory, so this is the step alone: upload, forward, losses, backward, finiteness
check, clipping, optimizer, EMA. The last line is the result as JSON.
"""

import argparse
import statistics
import time

import torch

from superres.common.console import emit
from superres.model.archs import build
from training.data.packs.crops import Batch
from training.loop.distributed import DistributedContext
from training.loop.prefetch import BatchBuilder, to_device
from training.loop.state import TrainState, memory_format
from training.loop.step import TrainStep
from training.recipe import Patch, load_recipe

WARM_UP_STEPS = 20


class NoiseSampler:
    """A sampler of noise crops, drawn once."""

    def __init__(self, batch: int, side: int, scale: int) -> None:
        draw = torch.Generator().manual_seed(0)
        lr, hr = (
            torch.randint(0, 256, (batch, s, s, 3), dtype=torch.uint8, generator=draw).numpy()
            for s in (side, side * scale)
        )
        self._batch = Batch(lr_bhwc_u8=lr, hr_bhwc_u8=hr, names=("noise",) * batch)

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        return self._batch


def main() -> None:
    arguments = _arguments()
    device = torch.device("cuda")
    recipe = load_recipe(arguments.recipe).model_copy(
        update={"compile": arguments.compile, "cuda_graphs": arguments.cuda_graphs}
    )
    stage = recipe.full.model_copy(
        update={
            "batch": arguments.batch,
            "micro_batch": None,
            "patches": [Patch(since=0.0, side=arguments.patch)],
        }
    )
    net = build(recipe.arch.name, recipe.arch.parameters)
    train_state = TrainState(net, recipe, stage, device)
    train_step = TrainStep(train_state, recipe, stage.batch, DistributedContext(), device)
    batch_builder = BatchBuilder(
        samplers={arguments.patch: NoiseSampler(stage.batch, arguments.patch, recipe.scale)},
        side=lambda step: arguments.patch,
        degradation=None,
        batch=stage.batch,
        part=slice(None),
        pin=True,
    )
    host_batch = batch_builder.make(0)
    milliseconds = []
    for step in range(1, WARM_UP_STEPS + arguments.steps + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        train_state.generator.set_learning_rate(0.5)
        train_step(*to_device(host_batch, device, memory_format(recipe), recipe.scale))
        train_state.ema.update(train_state.generator.net, step)
        torch.cuda.synchronize()
        if step > WARM_UP_STEPS:
            milliseconds.append(1000 * (time.perf_counter() - began))
    emit(
        {
            "recipe": recipe.name,
            "batch": stage.batch,
            "hr_side": arguments.patch * recipe.scale,
            "device": torch.cuda.get_device_name(device),
            "compile": recipe.compile,
            "cuda_graphs": recipe.cuda_graphs,
            "step_ms_p50": round(statistics.median(milliseconds), 2),
            "peak_memory_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2),
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="esrgan_x4")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=32, help="side of an LR crop")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
