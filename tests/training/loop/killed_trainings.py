"""Train a recipe uninterrupted, then KILLS times with a SIGKILL and a resume; print the digests.

    python killed_trainings.py RECIPE DATASET FOLDER KILLS

A separate script: it imports everything once and forks a process per training, which is not safe
after autograd has run. The process kills itself; SIGKILL allows no cleanup, so the state left
behind is the same as with a SIGKILL from outside.
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
from training.basicsr_bridge import load_basicsr
from training.data.packs.crops import Batch, CropSampler
from training.data.packs.packs import Pack
from training.loop import checkpoint
from training.loop.context import LoopContext
from training.loop.ema import ExponentialMovingAverage
from training.loop.loop import TrainingLoop
from training.recipe import load_recipe

KILL_POINTS = ("while a checkpoint is written", "while data is drawn", "between weights and EMA")


class SilentTracker:
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass


def main(recipe: str, dataset: Path, folder: Path, kills: int) -> None:
    load_basicsr()
    torch.set_num_threads(1)
    run_process(recipe, dataset, folder / "whole")
    steps = load_recipe(recipe).full.steps
    draw = random.Random(4)
    runs = []
    for number in range(kills):
        run_folder = folder / f"broken-{number}"
        kill_point = KILL_POINTS[number % len(KILL_POINTS)]
        at = draw.randrange(1, steps)
        exit_codes = [run_process(recipe, dataset, run_folder, kill_point, at)]
        leftovers = (
            sorted(path.name for path in run_folder.iterdir()) if run_folder.is_dir() else []
        )
        while exit_codes[-1] != 0:
            exit_codes.append(run_process(recipe, dataset, run_folder))
        runs.append(
            {
                "kill_point": kill_point,
                "at": at,
                "exit_codes": exit_codes,
                "leftovers": leftovers,
                "digest": digest(run_folder),
            }
        )
    emit({"whole": digest(folder / "whole"), "runs": runs})


def run_process(
    recipe: str, dataset: Path, folder: Path, kill_point: str | None = None, at: int = 0
) -> int:
    """Run or resume a training in a forked process; its exit code (negative: a signal)."""
    child = os.fork()
    if child == 0:
        try:
            if kill_point is not None:
                kill_at(kill_point, at)
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
        tracker=SilentTracker(),
        validate=score,
        device=torch.device("cpu"),
    )
    net = build(recipe.arch.name, recipe.arch.parameters)
    loop = TrainingLoop(net, recipe, stage, samplers, context)
    loop.resume()
    loop.run()


def score(weights: Mapping[str, Tensor], step: int) -> float:
    return float(sum(value.double().abs().mean() for value in weights.values()))


def kill_at(kill_point: str, at: int) -> None:
    """Kill the process at a step, or while it writes the first checkpoint from that step on."""
    if kill_point == "while data is drawn":
        draw = CropSampler.batch

        def batch(self: CropSampler, step: int, part: slice = slice(None)) -> Batch:
            return draw(self, step, part) if step != at else die()

        CropSampler.batch = batch
    elif kill_point == "between weights and EMA":
        update = ExponentialMovingAverage.update
        ExponentialMovingAverage.update = lambda self, net, updates: (
            update(self, net, updates) if updates != at else die()
        )
    else:
        save = checkpoint.save

        def save_and_die(folder: Path, state: checkpoint.Checkpoint) -> Path:
            if state.step >= at:
                os.fsync = truncate_and_die
            return save(folder, state)

        checkpoint.save = save_and_die


def truncate_and_die(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def digest(folder: Path) -> str:
    """The sha256 of a training's final state: weights, EMA, discriminator, optimizers."""
    last = checkpoint.load_newest(folder)
    assert last is not None
    content = hashlib.sha256(json.dumps([last.step, last.counters]).encode())
    content.update(last.torch_rng.numpy().tobytes())
    hash_state(last.state, content.update)
    return content.hexdigest()


def hash_state(value: object, update: Callable[[bytes], None]) -> None:
    if isinstance(value, Mapping):
        for key in value:
            update(str(key).encode())
            hash_state(value[key], update)
    elif isinstance(value, Tensor):
        update(value.contiguous().numpy().tobytes())
    elif isinstance(value, list | tuple):
        for each in value:
            hash_state(each, update)
    else:
        update(repr(value).encode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
