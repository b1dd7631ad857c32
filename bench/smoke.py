"""CPU seconds of `sharpline train RECIPE --profile smoke` for each recipe, over all threads.

Every smoke runs the command in its own process, on the embedded pictures with a temporary state
folder. CPU seconds are user and system time of the whole process, so other load matters little.
Perceptual losses use random VGG19 weights.

    SHARPLINE_THREADS=1 python bench/smoke.py
    SHARPLINE_THREADS=1 python bench/smoke.py denoise esrgan_x4
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_common import build_sample

from superres.common.console import emit, say, show
from training.losses.perceptual import LAYERS, VGG_VARIABLE, VggFeatures
from training.recipe import load_recipe, recipe_names

PHASES: tuple[str, ...] = ("train", "validate", "publish")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=recipe_names(), metavar="RECIPE")
    parser.add_argument("--phases-on", type=Path, metavar="DATASET", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phases_on is not None:
        (recipe,) = arguments.recipes
        _run_one(recipe, arguments.phases_on)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["SHARPLINE_STATE"] = str(root)
        os.environ[VGG_VARIABLE] = str(_random_vgg(root / "vgg19.pth"))
        scales = {load_recipe(name).scale for name in arguments.recipes}
        datasets = {scale: build_sample(scale, root) for scale in sorted(scales)}
        show("| recipe | CPU seconds | training | validation | publishing |")
        show("|---|---|---|---|---|")
        for name in arguments.recipes:
            whole, phases = _measured(name, datasets[load_recipe(name).scale])
            cells = " | ".join(f"{value:.1f}" for value in (whole, *phases.values()))
            show(f"| {name} | {cells} |")


def _measured(recipe: str, dataset: Path) -> tuple[float, dict[str, float]]:
    """CPU seconds of the whole command and of each phase."""
    arguments = [sys.executable, __file__, recipe, "--phases-on", str(dataset)]
    with tempfile.TemporaryFile("w+") as output:
        before = _children_seconds()
        completed = subprocess.run(arguments, stdout=output, stderr=subprocess.PIPE, text=True)
        whole = _children_seconds() - before
        if completed.returncode != 0:
            say(completed.stderr)
            raise SystemExit(f"the smoke of {recipe} failed with exit code {completed.returncode}")
        output.seek(0)
        return whole, json.loads(output.read().splitlines()[-1])


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _run_one(recipe: str, dataset: Path) -> None:
    """Run the command in this process and measure the CPU seconds of its phases."""
    from sharpline.cli import run
    from training import job, session

    seconds = dict.fromkeys(PHASES, 0.0)

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                seconds[phase] += time.process_time() - began

        return measured

    job.TrainingLoop.run = timed("train", job.TrainingLoop.run)
    session.validate = timed("validate", session.validate)
    session.publish = timed("publish", session.publish)
    code = run(["train", recipe, "--data", str(dataset), "--profile", "smoke"])
    emit(seconds)
    sys.exit(code)


def _random_vgg(path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(VggFeatures(LAYERS).state_dict(), path)
    return path


if __name__ == "__main__":
    main()
