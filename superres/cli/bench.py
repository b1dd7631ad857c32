"""`sharpline bench`: the speed of models on this machine."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from superres.common.console import emit, show
from superres.common.environment import cpu_threads
from superres.common.files import write_json
from superres.model.starters import find_bundle, find_bundles


def bench(argv: Sequence[str]) -> int:
    """Measure how long models take for one picture, on every backend of this machine."""
    from superres.model.benchmark import benchmark_bundle, cpu_name, noise_picture

    arguments = _parser().parse_args(argv)
    width, height = arguments.size
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
        help="bundle folders or starters' names (default: every starter)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default=(480, 270),
        metavar="WIDTHxHEIGHT",
        help="of the input (default: 480x270)",
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
