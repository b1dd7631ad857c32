"""`sharpline data`: words in, one JSON line out."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from superres.console import answer, say
from superres.environment import state_folder
from superres.errors import UsageError

SOURCE_HELP = "`sample`, or a folder of high-resolution pictures"


class Word(NamedTuple):
    """One word of `sharpline data`: what it is for, what it takes, what it does."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def data(argv: list[str]) -> int:
    """Plan, build and seal sets of training pairs, and list those that there are."""
    parser = argparse.ArgumentParser(prog="sharpline data", description=data.__doc__)
    words = parser.add_subparsers(dest="word", required=True)
    for name, word in _WORDS.items():
        word_parser = words.add_parser(name, help=word.summary)
        word.add_arguments(word_parser)
        word_parser.add_argument("--json", action="store_true", help="end with one JSON line")
    arguments = parser.parse_args(argv)
    return _WORDS[arguments.word].run(arguments)


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="folder of datasets")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=SOURCE_HELP)
    _add_recipe(parser)


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", help=SOURCE_HELP)
    _add_recipe(parser)
    parser.add_argument("--plan", type=Path, help="a plan made by `sharpline data plan`")
    parser.add_argument("--shard", type=int, help="build only this shard of the plan")


def _add_seal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", type=Path, required=True)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
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
    answer(
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
        answer({"shard": arguments.shard, "pictures": pictures}, arguments.json)
        return 0
    built = build(arguments.plan or _make_plan(arguments))
    _report_left_out(built.info.left_out)
    answer(built.as_dict(), arguments.json)
    return 0


def _seal(arguments: argparse.Namespace) -> int:
    from training.data.pairs import seal

    built = seal(arguments.plan)
    _report_left_out(built.info.left_out)
    answer(built.as_dict(), arguments.json)
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
    answer({"root": str(root), "datasets": [info.id for info in infos]}, arguments.json)
    return 0


def _make_plan(arguments: argparse.Namespace) -> Path:
    from training.data.plan import PairRecipe, make_plan
    from training.data.sources import find_pictures

    licences = {}
    for words in arguments.licence:
        folder, equals, text = words.partition("=")
        licences[folder if equals else ""] = text if equals else words
    pictures = find_pictures(
        [arguments.source, *arguments.also],
        split_every=arguments.split_every,
        scale=arguments.scale,
        degradation=arguments.degrade,
        licences=licences,
    )
    root = (arguments.out or state_folder() / "datasets").resolve()
    return make_plan(
        pictures, PairRecipe(scale=arguments.scale, degradation=arguments.degrade), root
    )


def _report_left_out(left_out: Sequence) -> None:
    for entry in left_out:
        say(f"left out: {entry.name}: {entry.reason}")


_WORDS = {
    "list": Word("the datasets that there are", _add_list, _list),
    "plan": Word("decide what a dataset will hold, build nothing yet", _add_plan, _plan),
    "build": Word("build a dataset, or one shard of a plan", _add_build, _build),
    "seal": Word("join a plan's shards into the dataset", _add_seal, _seal),
}
