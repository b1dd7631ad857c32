"""`sharpline bench`: its words."""

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
    """Measure how long models take for one picture, on every backend that this machine has."""
    from superres.model.benchmark import cpu_name, measured, noise_picture

    arguments = _parser().parse_args(argv)
    width, height = arguments.size
    bundles = [find_bundle(name) for name in arguments.bundles] or find_bundles()
    picture = noise_picture(width, height)
    machine = {"cpu": cpu_name(), "threads": cpu_threads()}
    if not arguments.json:
        show(f"{machine['cpu']}, {machine['threads']} threads, {width}x{height} pixels in\n")
        show("| model | backend | device | seconds | MP/s out |\n|---|---|---|---|---|")
    speeds = []
    for bundle in bundles:
        for speed in measured(bundle, picture, arguments.runs, arguments.device):
            speeds.append(asdict(speed))
            if not arguments.json:
                show(
                    f"| {speed.model} | {speed.backend} {speed.precision} | {speed.device} "
                    f"| {speed.seconds:.3f} | {speed.megapixels_per_second:.2f} |"
                )
    size = {"width": width, "height": height, "runs": arguments.runs}
    result = {"machine": machine, "picture": size, "speeds": speeds}
    if arguments.out:
        write_json(arguments.out, result)
    if arguments.json:
        emit(result)
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
        help="the median of these is told (default: 5)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON too")
    parser.add_argument("--json", action="store_true")
    return parser


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT in pixels, not {text!r}")
    return int(found[1]), int(found[2])


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"runs are a number from 1, not {text!r}")
    return int(text)
