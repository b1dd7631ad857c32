"""`sharpline bench`: the speed of models on this machine."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from superres.common.console import emit, show
from superres.common.environment import cpu_threads
from superres.common.errors import UsageError
from superres.common.files import write_json
from superres.model.starters import find_bundle, find_bundles

DEFAULT_SIZE = (480, 270)


def bench(argv: Sequence[str]) -> int:
    """Measure how long models take for one picture, on every backend of this machine; with
    --networks, what networks cost in weights, multiply-adds, time and memory.
    """
    arguments = _parser().parse_args(argv)
    if arguments.networks:
        from superres.cli.bench_networks import bench_networks

        if arguments.size:
            raise UsageError("--networks measures an output of 1280x720: leave --size out")
        return bench_networks(arguments)
    if arguments.on:
        raise UsageError("--on only goes with --networks; sharpline evaluate scores models")
    from superres.model.benchmark import benchmark_bundle, cpu_name, noise_picture

    width, height = arguments.size or DEFAULT_SIZE
    bundles = [find_bundle(name) for name in arguments.bundles] or find_bundles()
    picture = noise_picture(width, height)
    machine = {"cpu": cpu_name(), "threads": cpu_threads()}
    if not arguments.json:
        show(f"{machine['cpu']}, {machine['threads']} threads, {width}x{height} pixels in\n")
        show("| model | backend | device | seconds | MP/s out |\n|---|---|---|---|---|")
    results = []
    for bundle in bundles:
        for result in benchmark_bundle(bundle, picture, arguments.runs, arguments.device):
            results.append(asdict(result))
            if not arguments.json:
                show(
                    f"| {result.model} | {result.backend} {result.precision} | {result.device} "
                    f"| {result.seconds:.3f} | {result.megapixels_per_second:.2f} |"
                )
    size = {"width": width, "height": height, "runs": arguments.runs}
    document = {"machine": machine, "picture": size, "speeds": results}
    if arguments.out:
        write_json(arguments.out, document)
    if arguments.json:
        emit(document)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharpline bench", description=bench.__doc__)
    parser.add_argument(
        "bundles",
        nargs="*",
        metavar="BUNDLE",
        help="bundle folders or starters' names (default: every starter); with --networks, names "
        "of networks",
    )
    parser.add_argument(
        "--networks",
        action="store_true",
        help="compare networks, with random weights, for an output of 1280x720",
    )
    parser.add_argument(
        "--on",
        metavar="PICTURES",
        help="with --networks: a folder of high-resolution pictures, a dataset or a fetched source "
        "to score the starters on (default: the scores that their bundles state)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="of the input (default: 480x270; not with --networks)",
    )
    parser.add_argument(
        "--runs",
        type=_count,
        default=5,
        metavar="N",
        help="number of runs whose median is reported (default: 5)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON")
    parser.add_argument("--json", action="store_true")
    return parser


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT in pixels, not {text!r}")
    return int(match[1]), int(match[2])


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"runs must be at least 1, not {text!r}")
    return int(text)
