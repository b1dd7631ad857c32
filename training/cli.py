"""The command `sharpline train`."""

import argparse
import os
import re
from pathlib import Path

from superres.common.console import print_result
from superres.common.environment import state_folder
from superres.common.errors import UsageError

PARENT_RUN_VARIABLE = "SHARPLINE_PARENT_RUN"


def train(argv: list[str]) -> int:
    """Train a recipe on a dataset and publish the result as a bundle."""
    parser = argparse.ArgumentParser(prog="sharpline train", description=train.__doc__)
    parser.add_argument(
        "recipe", nargs="?", help="a recipe's name (compact_x4, ...) or a YAML file"
    )
    parser.add_argument("--data", type=Path, help="dataset folder")
    parser.add_argument(
        "--init",
        metavar="WEIGHTS",
        help="initial weights: a bundle, a .pth file, or registry:NAME[@ALIAS]",
    )
    parser.add_argument(
        "--parent-run",
        default=os.environ.get(PARENT_RUN_VARIABLE, ""),
        type=_run_name,
        metavar="NAME",
        help=f"parent MLflow run, created if missing (default: {PARENT_RUN_VARIABLE})",
    )
    parser.add_argument("--profile", choices=("full", "finetune", "smoke"), default="full")
    parser.add_argument("--minutes", type=float, help="time limit; the schedule adapts")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, help="folder of runs (default: STATE/runs)")
    parser.add_argument("--resume", action="store_true", help="resume the interrupted run")
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="RUN",
        help="train nothing; send RUN's unsent records to MLflow",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    arguments = parser.parse_args(argv)
    from training.job import TrainingJob, replay, run
    from training.recipe import recipe_names

    if arguments.replay is not None:
        result = replay(arguments.replay)
    elif arguments.recipe is None:
        raise UsageError("the recipe is missing; available: " + ", ".join(recipe_names()))
    elif arguments.data is None:
        raise UsageError("--data DATASET is missing; build one with `sharpline data build`")
    else:
        result = run(
            TrainingJob(
                recipe=arguments.recipe,
                data=arguments.data,
                init=arguments.init,
                profile=arguments.profile,
                minutes=arguments.minutes,
                resume=arguments.resume,
                runs=arguments.out or state_folder() / "runs",
                parent_run=arguments.parent_run,
                device=arguments.device,
            )
        )
    if result:  # only rank 0 has a result
        print_result(result, arguments.json)
    return 0


def _run_name(text: str) -> str | None:
    # A quote or backslash would need an escape that MLflow's search does not know.
    if not re.fullmatch(r"[^'\\\x00-\x1f]{0,250}", text):
        raise argparse.ArgumentTypeError("a run name has no quotes, backslashes or line breaks")
    return text or None
