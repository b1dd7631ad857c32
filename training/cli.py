"""`sharpline data` and `sharpline train`: words in, one JSON line out."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from superres.console import emit, say
from superres.environment import state_folder
from superres.errors import UsageError


def data(argv: list[str]) -> int:
    """Plan, build and seal sets of training pairs, and list those that there are."""
    parser = argparse.ArgumentParser(prog="sharpline data", description=data.__doc__)
    words = parser.add_subparsers(dest="word", required=True)
    plan = words.add_parser("plan", help="decide what a dataset will hold, build nothing yet")
    build = words.add_parser("build", help="build a dataset, or one shard of a plan")
    seal = words.add_parser("seal", help="join a plan's shards into the dataset")
    listing = words.add_parser("list", help="the datasets that there are")
    for word, source_needed in ((plan, True), (build, False)):
        _add_source_words(word, source_needed)
    build.add_argument("--plan", type=Path, help="a plan made by `sharpline data plan`")
    build.add_argument("--shard", type=int, help="build only this shard of the plan")
    seal.add_argument("--plan", type=Path, required=True)
    listing.add_argument("--out", type=Path, help="folder of datasets")
    for word in (plan, build, seal, listing):
        word.add_argument("--json", action="store_true", help="end with one JSON line")
    arguments = parser.parse_args(argv)
    return _DATA_WORDS[arguments.word](arguments)


def train(argv: list[str]) -> int:
    """Train a recipe on a dataset and publish the result as a bundle."""
    parser = argparse.ArgumentParser(prog="sharpline train", description=train.__doc__)
    parser.add_argument(
        "recipe", nargs="?", help="a recipe's name (compact_x4, ...) or a YAML file"
    )
    parser.add_argument("--data", type=Path, help="dataset folder")
    parser.add_argument("--init", type=Path, help="bundle to start from")
    parser.add_argument("--profile", choices=("full", "finetune", "smoke"), default="full")
    parser.add_argument("--minutes", type=float, help="time limit; the schedule follows it")
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
    from training.job import Job, replay, run
    from training.recipe import recipe_names

    if arguments.replay is not None:
        result = replay(arguments.replay)
    elif arguments.recipe is None:
        raise UsageError("the recipe is missing; there are: " + ", ".join(recipe_names()))
    elif arguments.data is None:
        raise UsageError("--data DATASET is missing; make one with `sharpline data build`")
    else:
        result = run(
            Job(
                recipe=arguments.recipe,
                data=arguments.data,
                init=arguments.init,
                profile=arguments.profile,
                minutes=arguments.minutes,
                resume=arguments.resume,
                runs=arguments.out or state_folder() / "runs",
            )
        )
    _answer(result, arguments.json)
    return 0


def _add_source_words(parser: argparse.ArgumentParser, needed: bool) -> None:
    parser.add_argument(
        "source",
        nargs=None if needed else "?",
        help="`sample`, or a folder of high-resolution pictures",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="SOURCE",
        help="one more source (may be repeated)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=(1, 2, 3, 4, 8),
        default=4,
        help="1 to restore a picture at its own size",
    )
    parser.add_argument(
        "--degrade",
        default="bicubic",
        metavar="KIND",
        help="a kind, or several by weights: '{real_esrgan: 0.7, bicubic: 0.3}'",
    )
    parser.add_argument(
        "--split-every",
        type=int,
        default=0,
        metavar="N",
        help="hold every N-th picture of a folder out for validation",
    )
    parser.add_argument(
        "--licence",
        action="append",
        default=[],
        metavar="[FOLDER=]TEXT",
        help="licence of the pictures of all folders, or of one (may be repeated)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="ROOT",
        help="folder of datasets (default: datasets/ of the state)",
    )


def _plan(arguments: argparse.Namespace) -> int:
    from training.data.plan import read_plan

    path = _make_plan(arguments)
    plan = read_plan(path)
    _answer(
        {
            "plan": str(path),
            "dataset": plan.id,
            "shards": plan.shards,
            "unchanged": plan.unchanged,
            "left_out": len(plan.left_out),
        },
        arguments.json,
    )
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from training.data.pairs import build, build_shard

    if (arguments.plan is None) == (arguments.source is None):
        raise UsageError("give either a SOURCE or --plan PLAN")
    if arguments.shard is not None:
        if arguments.plan is None:
            raise UsageError("--shard needs --plan PLAN")
        pictures = build_shard(arguments.plan, arguments.shard)
        _answer({"shard": arguments.shard, "pictures": pictures}, arguments.json)
        return 0
    built = build(arguments.plan or _make_plan(arguments))
    _report_left_out(built.info.left_out)
    _answer(built.as_dict(), arguments.json)
    return 0


def _seal(arguments: argparse.Namespace) -> int:
    from training.data.pairs import seal

    built = seal(arguments.plan)
    _report_left_out(built.info.left_out)
    _answer(built.as_dict(), arguments.json)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from superres.manifest import INFO_NAME, read_info

    root = arguments.out or state_folder() / "datasets"
    infos = [read_info(path.parent) for path in sorted(root.glob(f"*/{INFO_NAME}"))]
    for info in infos:
        say(
            f"{info.id}  x{info.scale}  {info.degradation:<14}{info.splits['train']:>6} train "
            f"{info.splits['validation']:>5} validation  {info.source}"
        )
    _answer({"root": str(root), "datasets": [info.id for info in infos]}, arguments.json)
    return 0


def _make_plan(arguments: argparse.Namespace) -> Path:
    from training.data.plan import PairRecipe, make_plan
    from training.data.sources import find_pictures

    licences = {}
    for words in arguments.licence:
        folder, equals, text = words.partition("=")
        licences[folder if equals else ""] = text if equals else words
    pictures = find_pictures(
        [arguments.source, *arguments.also], split_every=arguments.split_every, licences=licences
    )
    root = (arguments.out or state_folder() / "datasets").resolve()
    return make_plan(
        pictures, PairRecipe(scale=arguments.scale, degradation=arguments.degrade), root
    )


def _report_left_out(left_out: Sequence) -> None:
    for entry in left_out:
        say(f"left out: {entry.name}: {entry.reason}")


def _answer(result: dict[str, object], as_json: bool) -> None:
    """A result as one JSON line for a script, or as lines for a person."""
    if as_json:
        emit(result)
        return
    for key, value in result.items():
        say(f"{key}: {value}")


_DATA_WORDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "plan": _plan,
    "build": _build,
    "seal": _seal,
    "list": _list,
}
