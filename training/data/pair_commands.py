"""`sharpline data plan | build | seal | verify | show`: datasets of training pairs."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from superres.common.console import print_result, say
from superres.common.environment import cpu_threads, state_folder
from superres.common.errors import UsageError

if TYPE_CHECKING:
    from training.data.pairs.build import Built
    from training.data.sources.picture import SourcePicture

SOURCE_HELP = "`sample`, or a source that was fetched or added: see `sharpline data list`"


def add_plan(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sharpline data plan`."""
    parser.add_argument("source", help=SOURCE_HELP)
    _add_recipe(parser)


def add_build(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sharpline data build`."""
    parser.add_argument("source", nargs="?", help=SOURCE_HELP)
    _add_recipe(parser)
    parser.add_argument("--plan", type=Path, help="a plan made by `sharpline data plan`")
    parser.add_argument("--shard", type=int, help="build only this shard of the plan")
    _add_workers(parser)


def add_seal(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sharpline data seal`."""
    parser.add_argument("--plan", type=Path, required=True)
    _add_workers(parser)


def add_verify(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sharpline data verify`."""
    parser.add_argument("dataset", type=_dataset, help="a dataset: its folder, or its id")
    parser.add_argument(
        "--sample", type=_count, metavar="N", help="reproduce the LR of only N pictures"
    )
    _add_against(parser)
    _add_workers(parser)


def add_show(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sharpline data show`."""
    parser.add_argument("dataset", type=_dataset, help="a dataset: its folder, or its id")
    parser.add_argument("--out", type=Path, help="PNG or JPEG file (default: DATASET-sheet.png)")
    parser.add_argument("--count", type=_count, default=6, metavar="N", help="pairs to show")
    parser.add_argument("--split", choices=("train", "validation"), default="train")


def run_plan(arguments: argparse.Namespace) -> int:
    """Write the plan of a dataset."""
    from training.data.shards.plan import read_plan

    path = _make_plan(arguments)
    plan = read_plan(path)
    print_result(
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


def run_build(arguments: argparse.Namespace) -> int:
    """Build a dataset, or one shard of a plan."""
    from training.data.pairs.build import build, build_shard

    if (arguments.plan is None) == (arguments.source is None):
        raise UsageError("give either a SOURCE or --plan PLAN")
    if arguments.shard is not None:
        if arguments.plan is None:
            raise UsageError("--shard needs --plan PLAN")
        pictures = build_shard(arguments.plan, arguments.shard)
        print_result({"shard": arguments.shard, "pictures": pictures}, arguments.json)
        return 0
    built = build(arguments.plan or _make_plan(arguments), workers=_workers(arguments))
    _print_built(built, arguments)
    return 0


def run_seal(arguments: argparse.Namespace) -> int:
    """Join a plan's shards into the dataset."""
    from training.data.pairs.build import seal

    _print_built(seal(arguments.plan, workers=_workers(arguments)), arguments)
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify a dataset and print each finding; the exit code is 1 where there are findings."""
    from training.data.pairs.verify import verify

    verified = verify(
        arguments.dataset,
        references=_references(arguments.against),
        sample=arguments.sample,
        workers=_workers(arguments),
    )
    for finding in verified.findings:
        say(f"{finding.what}: {finding.problem}")
    result = verified.as_dict()
    if not arguments.json:
        result["findings"] = len(verified.findings)
    print_result(result, arguments.json)
    return 1 if verified.findings else 0


def run_show(arguments: argparse.Namespace) -> int:
    """Draw a contact sheet of a dataset."""
    from training.data.pairs.show import draw_contact_sheet

    out = arguments.out or Path(f"{arguments.dataset.resolve().name}-sheet.png")
    shown = draw_contact_sheet(arguments.dataset, out, count=arguments.count, split=arguments.split)
    print_result({"sheet": str(out), "pairs": shown}, arguments.json)
    return 0


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
        help="a kind (an unknown one lists them), a weighted mix: "
        "'{real_esrgan: 0.7, bicubic: 0.3}', or `given` for the low-resolution pictures that the "
        "source provides",
    )
    parser.add_argument(
        "--draws",
        type=_count,
        default=1,
        metavar="N",
        help="degrade each training picture N times, each with its own seed",
    )
    parser.add_argument(
        "--split-every",
        type=_count_or_zero,
        default=0,
        metavar="N",
        help="hold out about one picture in N, for sources without a validation split",
    )
    _add_against(parser)
    parser.add_argument(
        "--shard-size",
        type=_count,
        metavar="N",
        help="pictures per shard (default: by dataset size)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="ROOT",
        help="folder of datasets (default: datasets/ in the state folder)",
    )


def _add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="pictures that must not be in the dataset, besides those of fetched benchmarks "
        "(may be repeated)",
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="worker processes (default: one per core)"
    )


def _dataset(name: str) -> Path:
    """The folder of a dataset, given as a path or as the id of one in the state folder."""
    by_id = state_folder() / "datasets" / name
    return by_id if not Path(name).exists() and by_id.is_dir() else Path(name)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _count_or_zero(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _workers(arguments: argparse.Namespace) -> int:
    return arguments.workers or cpu_threads()


def _references(folders: Sequence[Path]) -> "list[SourcePicture]":
    """Pictures that must not be trained on: those of fetched benchmarks and of `folders`."""
    from superres.evaluation.held_out import set_name
    from superres.image.codecs import list_pictures
    from training.data.sources.picture import SourcePicture
    from training.data.sources.resolve import benchmark_pictures

    references = benchmark_pictures()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--against {folder}: there is no such folder")
        paths = list_pictures(folder)
        if not paths:
            raise UsageError(f"--against {folder}: there are no pictures in it")
        references += [
            SourcePicture(
                name=path.name,
                path=path.resolve(),
                split="validation",
                source=set_name(folder),
                licence="",
                author="",
            )
            for path in paths
        ]
    return references


def _make_plan(arguments: argparse.Namespace) -> Path:
    from training.data.shards.plan import PairRecipe, make_plan
    from training.data.sources.resolve import find_pictures

    pictures = find_pictures(
        [arguments.source, *arguments.also],
        split_every=arguments.split_every,
        scale=arguments.scale,
        degradation=arguments.degrade,
    )
    references = _references(arguments.against)
    _report_references(references)
    recipe = PairRecipe(scale=arguments.scale, degradation=arguments.degrade, draws=arguments.draws)
    return make_plan(
        pictures,
        recipe,
        (arguments.out or state_folder() / "datasets").resolve(),
        references=references,
        pictures_per_shard=arguments.shard_size,
    )


def _report_references(references: "Sequence[SourcePicture]") -> None:
    counts = Counter(picture.source for picture in references)
    if counts:
        listed = ", ".join(f"{source} ({count})" for source, count in sorted(counts.items()))
        say(f"checking that the dataset repeats no picture of: {listed}")
    else:
        say(
            "no benchmark was fetched, so the dataset is compared with none; fetch them with "
            "`sharpline data fetch set5` (set14, bsd100, urban100) or name others by --against"
        )


def _print_built(built: "Built", arguments: argparse.Namespace) -> None:
    for entry in built.left_out:
        say(f"left out: {entry.name}: {entry.reason}")
    print_result(built.as_dict(), arguments.json)
