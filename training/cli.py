"""`sharpline train`: words in, one JSON line out."""

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
        help="what to start from: a bundle, a .pth file, or registry:NAME[@ALIAS]",
    )
    parser.add_argument(
        "--parent-run",
        default=os.environ.get(PARENT_RUN_VARIABLE, ""),
        type=_run_name,
        metavar="NAME",
        help=f"the MLflow run to stand under, made if need be (default: {PARENT_RUN_VARIABLE})",
    )
    parser.add_argument("--profile", choices=("full", "finetune", "smoke"), default="full")
    parser.add_argument("--minutes", type=float, help="time limit; the schedule follows it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, help="folder of runs (default: runs/ of the state)")
    parser.add_argument("--resume", action="store_true", help="go on with the run that broke off")
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="RUN",
        help="only send to MLflow what RUN noted while MLflow was away",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    arguments = parser.parse_args(argv)
    from training.job import TrainingJob, replay, run
    from training.recipe import recipe_names

    if arguments.replay is not None:
        result = replay(arguments.replay)
    elif arguments.recipe is None:
        raise UsageError("the recipe is missing; there are: " + ", ".join(recipe_names()))
    elif arguments.data is None:
        raise UsageError("--data DATASET is missing; make one with `sharpline data build`")
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
    if result:  # of several processes, one answers
        print_result(result, arguments.json)
    return 0


def _run_name(text: str) -> str | None:
    # A quote or backslash would need an escape that MLflow's search does not know.
    if not re.fullmatch(r"[^'\\\x00-\x1f]{0,250}", text):
        raise argparse.ArgumentTypeError("a run's name has no quotes, backslashes or line ends")
    return text or None
