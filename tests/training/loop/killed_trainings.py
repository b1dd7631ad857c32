"""Trains one recipe whole, and again with the process killed on the way; prints what came out.

    python killed_trainings.py RECIPE DATASET FOLDER KILLS

A script of its own: it loads what a training needs once and forks for every life of a training,
which may not be done where autograd has run before. SIGKILL leaves a process no chance to tidy up,
so where it strikes itself makes no difference to what stays behind.
"""

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from superres.common.console import emit
from superres.model.archs import build
from training.data.packs.crops import Batch, CropSampler
from training.data.packs.packs import Pack
from training.loop import checkpoint
from training.loop.context import LoopContext
from training.loop.ema import ExponentialMovingAverage
from training.loop.loop import TrainingLoop
from training.recipe import load_recipe
from training.weights.basicsr_bridge import load_basicsr

MOMENTS = ("while a checkpoint is written", "while data is drawn", "between weights and average")


class Silent:
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass


def main(recipe: str, dataset: Path, folder: Path, kills: int) -> None:
    load_basicsr()
    torch.set_num_threads(1)
    live(recipe, dataset, folder / "whole")
    steps = load_recipe(recipe).full.steps
    draw = random.Random(4)
    runs = []
    for number in range(kills):
        place = folder / f"broken-{number}"
        moment = MOMENTS[number % len(MOMENTS)]
        at = draw.randrange(1, steps)
        ends = [live(recipe, dataset, place, moment, at)]
        left = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
        while ends[-1] != 0:
            ends.append(live(recipe, dataset, place))
        runs.append(
            {"moment": moment, "at": at, "ends": ends, "left": left, "digest": digest(place)}
        )
    emit({"whole": digest(folder / "whole"), "runs": runs})


def live(recipe: str, dataset: Path, folder: Path, moment: str | None = None, at: int = 0) -> int:
    """One life of a training in a process of its own; how it ended (0, or the signal negated)."""
    child = os.fork()
    if child == 0:
        try:
            if moment is not None:
                lay_in_wait(moment, at)
            train(recipe, dataset, folder)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(recipe_file: str, dataset: Path, folder: Path) -> None:
    recipe = load_recipe(recipe_file)
    torch.manual_seed(recipe.seed)
    stage, pack = recipe.full, Pack(dataset)
    samplers = {
        patch.side: CropSampler(pack, patch=patch.side, batch=stage.batch, seed=recipe.seed)
        for patch in stage.patches
    }
    context = LoopContext(
        folder=folder,
        tracker=Silent(),
        validate=score,
        device=torch.device("cpu"),
    )
    net = build(recipe.arch.name, recipe.arch.parameters)
    loop = TrainingLoop(net, recipe, stage, samplers, context)
    loop.resume()
    loop.run()


def score(weights: Mapping[str, Tensor], step: int) -> float:
    return float(sum(value.double().abs().mean() for value in weights.values()))


def lay_in_wait(moment: str, at: int) -> None:
    """Die at a step, or in the middle of the first checkpoint from that step on."""
    if moment == "while data is drawn":
        draw = CropSampler.batch

        def batch(self: CropSampler, step: int, part: slice = slice(None)) -> Batch:
            return draw(self, step, part) if step != at else die()

        CropSampler.batch = batch
    elif moment == "between weights and average":
        update = ExponentialMovingAverage.update
        ExponentialMovingAverage.update = lambda self, net, updates: (
            update(self, net, updates) if updates != at else die()
        )
    else:
        save = checkpoint.save

        def doomed(folder: Path, state: checkpoint.Checkpoint) -> Path:
            if state.step >= at:
                os.fsync = halve_and_die
            return save(folder, state)

        checkpoint.save = doomed


def halve_and_die(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def digest(folder: Path) -> str:
    """The sha256 of all that a training ends with: weights, average, discriminator, optimizers."""
    last = checkpoint.load_newest(folder)
    assert last is not None
    content = hashlib.sha256(json.dumps([last.step, last.counters]).encode())
    content.update(last.torch_rng.numpy().tobytes())
    walk(last.state, content.update)
    return content.hexdigest()


def walk(value: object, take: Callable[[bytes], None]) -> None:
    if isinstance(value, Mapping):
        for key in value:
            take(str(key).encode())
            walk(value[key], take)
    elif isinstance(value, Tensor):
        take(value.contiguous().numpy().tobytes())
    elif isinstance(value, list | tuple):
        for each in value:
            walk(each, take)
    else:
        take(repr(value).encode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
