"""`sharpline data`: words in, one JSON line out."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from superres.common.console import emit, print_result, say, show
from superres.common.environment import state_folder
from superres.common.errors import UsageError
from training.data import pair_commands as pair_commands


class Subcommand(NamedTuple):
    """One word of `sharpline data`: what it is for, what it takes, what it does."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def data(argv: list[str]) -> int:
    """Fetch or add pictures, build sets of training pairs from them, and list what there is."""
    parser = argparse.ArgumentParser(prog="sharpline data", description=data.__doc__)
    commands = parser.add_subparsers(dest="subcommand", required=True)
    for name, subcommand in _SUBCOMMANDS.items():
        subcommand_parser = commands.add_parser(name, help=subcommand.summary)
        subcommand.add_arguments(subcommand_parser)
        subcommand_parser.add_argument("--json", action="store_true", help="end with one JSON line")
    arguments = parser.parse_args(argv)
    return _SUBCOMMANDS[arguments.subcommand].run(arguments)


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="folder of datasets")


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a public set of pictures: see `sharpline data list`")
    parser.add_argument(
        "--part",
        action="append",
        metavar="PART",
        help="hr (the default), a low-resolution track as bicubic_x4, a track for all its scales, "
        "or all (may be repeated)",
    )
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="PLACE",
        help="a mirror's address, a folder with the archives, or one archive",
    )


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


def _list(arguments: argparse.Namespace) -> int:
    from superres.dataset.manifest import INFO_NAME, read_info
    from training.data.sources.listing import list_sources

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


def _fetch(arguments: argparse.Namespace) -> int:
    from training.data.fetch.fetch import fetch
    from training.data.sources.entries import HR
    from training.data.sources.records import sources_folder

    report = fetch(arguments.source, parts=arguments.part or (HR,), origin=arguments.origin)
    record = report.record
    if not report.downloaded:
        say(f"{record.name} is here already")
    print_result(
        {
            "source": record.name,
            "downloaded": report.downloaded,
            "unchanged": not report.downloaded,
            "folder": str(sources_folder() / record.name),
            "pictures": sum(part.pictures for part in record.parts if part.part == HR),
            "content_sha256": record.content_sha256,
            "licence": record.licence,
        },
        arguments.json,
    )
    return 0


def _add(arguments: argparse.Namespace) -> int:
    from superres.image.codecs import list_pictures
    from training.data.sources.own import add_folder
    from training.data.sources.unread import unread_in

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
    unread = unread_in(added)
    for picture in unread:
        say(f"not read: {picture.path}: {picture.unread}")
    print_result(
        {
            "source": added.name,
            "folder": str(added.folder),
            "pictures": len(list_pictures(added.folder)),
            "not_read": len(unread),
            "licence": added.terms.licence,
            "stated_by": added.terms.by,
            "stated_at": added.terms.at,
            "watched": added.watched,
        },
        arguments.json,
    )
    return 0


_SUBCOMMANDS = {
    "list": Subcommand("the sources and datasets that there are", _add_list, _list),
    "fetch": Subcommand("bring a public set of pictures here", _add_fetch, _fetch),
    "add": Subcommand("make an own folder of pictures a source", _add_add, _add),
    "plan": Subcommand(
        "decide what a dataset will hold, build nothing yet",
        pair_commands.add_plan,
        pair_commands.run_plan,
    ),
    "build": Subcommand(
        "build a dataset, or one shard of a plan", pair_commands.add_build, pair_commands.run_build
    ),
    "seal": Subcommand(
        "join a plan's shards into the dataset", pair_commands.add_seal, pair_commands.run_seal
    ),
    "verify": Subcommand(
        "prove a dataset again", pair_commands.add_verify, pair_commands.run_verify
    ),
    "show": Subcommand(
        "draw pairs of a dataset for people", pair_commands.add_show, pair_commands.run_show
    ),
}
