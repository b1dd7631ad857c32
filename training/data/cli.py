"""`sharpline data`: words in, one JSON line out."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from superres.console import answer, emit, say, show
from superres.environment import state_folder
from superres.errors import UsageError

SOURCE_HELP = "`sample`, or a source that was fetched or added: see `sharpline data list`"


class Word(NamedTuple):
    """One word of `sharpline data`: what it is for, what it takes, what it does."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def data(argv: list[str]) -> int:
    """Fetch or add pictures, build sets of training pairs from them, and list what there is."""
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


def _add_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="high-resolution pictures; they stay there")
    parser.add_argument("--name", help="the source's name (default: the folder's)")
    parser.add_argument(
        "--i-own-the-rights",
        action="store_true",
        help="say that the pictures are yours, or that you have the permission to train on them",
    )
    parser.add_argument(
        "--licence", metavar="TEXT", help="what every model made from them inherits: 'CC0-1.0'"
    )
    lr = parser.add_mutually_exclusive_group()
    lr.add_argument("--pairs", action="store_true", help="the folder holds HR/ and LR/, aligned")
    lr.add_argument("--lr", type=Path, metavar="FOLDER", help="their low-resolution twins")
    parser.add_argument("--scale", type=int, choices=(1, 2, 3, 4, 8), help="of those twins")
    parser.add_argument(
        "--watch", action="store_true", help="let pipelines take in what is put there later"
    )
    parser.add_argument("--replace", action="store_true", help="state other terms for this name")


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
        help="hold every N-th picture out, of sources without a validation split",
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
    from training.data.listing import list_sources

    root = arguments.out or state_folder() / "datasets"
    infos = [read_info(path.parent) for path in sorted(root.glob(f"*/{INFO_NAME}"))]
    sources = list_sources()
    if arguments.json:
        emit(
            {
                "root": str(root),
                "datasets": [info.id for info in infos],
                "sources": [source.as_dict() for source in sources],
            }
        )
        return 0
    for source in sources:
        show(source.line())
    for info in infos:
        show(
            f"{info.id}  x{info.scale}  {info.degradation:<14}{info.splits['train']:>6} train "
            f"{info.splits['validation']:>5} validation  {info.source}"
        )
    return 0


def _add(arguments: argparse.Namespace) -> int:
    from superres.image import list_pictures
    from training.data.added import add_folder

    folder, lr = arguments.folder, arguments.lr
    name = arguments.name or folder.resolve().name
    if arguments.pairs:
        folder, lr = folder / "HR", folder / "LR"
    if (lr is None) != (arguments.scale is None):
        raise UsageError("--pairs or --lr FOLDER go with --scale, and --scale with one of them")
    added = add_folder(
        folder,
        name=name,
        licence=arguments.licence,
        owns_the_rights=arguments.i_own_the_rights,
        lr_folder=lr,
        scale=arguments.scale,
        watched=arguments.watch,
        replace=arguments.replace,
    )
    answer(
        {
            "source": added.name,
            "folder": str(added.folder),
            "pictures": len(list_pictures(added.folder)),
            "licence": added.terms.licence,
            "stated_by": added.terms.by,
            "stated_at": added.terms.at,
            "watched": added.watched,
        },
        arguments.json,
    )
    return 0


def _make_plan(arguments: argparse.Namespace) -> Path:
    from training.data.plan import PairRecipe, make_plan
    from training.data.sources import find_pictures

    pictures = find_pictures(
        [arguments.source, *arguments.also],
        split_every=arguments.split_every,
        scale=arguments.scale,
        degradation=arguments.degrade,
    )
    root = (arguments.out or state_folder() / "datasets").resolve()
    return make_plan(
        pictures, PairRecipe(scale=arguments.scale, degradation=arguments.degrade), root
    )


def _report_left_out(left_out: Sequence) -> None:
    for entry in left_out:
        say(f"left out: {entry.name}: {entry.reason}")


_WORDS = {
    "list": Word("the sources and datasets that there are", _add_list, _list),
    "add": Word("make an own folder of pictures a source", _add_add, _add),
    "plan": Word("decide what a dataset will hold, build nothing yet", _add_plan, _plan),
    "build": Word("build a dataset, or one shard of a plan", _add_build, _build),
    "seal": Word("join a plan's shards into the dataset", _add_seal, _seal),
}
