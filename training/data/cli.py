"""`sharpline data`: the command line for sources and datasets; prints one JSON line."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from superres.common.console import emit, print_result, say, show
from superres.common.environment import state_folder
from superres.common.errors import UsageError
from training.data import pair_commands


class Subcommand(NamedTuple):
    """A subcommand of `sharpline data`: its help text, its arguments and its function."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def data(argv: list[str]) -> int:
    """Fetch or add pictures, build datasets of training pairs from them, list both."""
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
        help="a mirror's URL, a folder with the archives, or one archive",
    )


def _add_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="high-resolution pictures; they are not copied")
    parser.add_argument("--name", help="the source's name (default: the folder's)")
    parser.add_argument(
        "--i-own-the-rights",
        action="store_true",
        help="state that the pictures are yours or that you have permission to train on them",
    )
    parser.add_argument(
        "--licence", metavar="TEXT", help="licence that models trained on them inherit: 'CC0-1.0'"
    )
    lr = parser.add_mutually_exclusive_group()
    lr.add_argument("--pairs", action="store_true", help="the folder holds HR/ and LR/, aligned")
    lr.add_argument("--lr", type=Path, metavar="FOLDER", help="the paired LR pictures")
    parser.add_argument("--scale", type=int, choices=(1, 2, 3, 4, 8), help="scale of the pairs")
    parser.add_argument(
        "--watch", action="store_true", help="let pipelines build when pictures are added"
    )
    parser.add_argument("--replace", action="store_true", help="replace the terms of this name")


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
        say(f"{record.name} is already here")
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

    folder, lr_folder = arguments.folder, arguments.lr
    name = arguments.name or folder.resolve().name
    if arguments.pairs:
        folder, lr_folder = folder / "HR", folder / "LR"
    if (lr_folder is None) != (arguments.scale is None):
        raise UsageError("--pairs and --lr FOLDER need --scale, and --scale needs one of them")
    added = add_folder(
        folder,
        name=name,
        licence=arguments.licence,
        owns_the_rights=arguments.i_own_the_rights,
        lr_folder=lr_folder,
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
    "list": Subcommand("list sources and datasets", _add_list, _list),
    "fetch": Subcommand("download a public set of pictures", _add_fetch, _fetch),
    "add": Subcommand("add your own folder of pictures as a source", _add_add, _add),
    "plan": Subcommand(
        "plan a dataset without building it",
        pair_commands.add_plan,
        pair_commands.run_plan,
    ),
    "build": Subcommand(
        "build a dataset, or one shard of a plan", pair_commands.add_build, pair_commands.run_build
    ),
    "seal": Subcommand(
        "join a plan's shards into the dataset", pair_commands.add_seal, pair_commands.run_seal
    ),
    "verify": Subcommand("verify a dataset", pair_commands.add_verify, pair_commands.run_verify),
    "show": Subcommand(
        "draw a contact sheet of pairs", pair_commands.add_show, pair_commands.run_show
    ),
}
