"""`sharpline enhance`: enlarge files and folders of pictures on this machine."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from superres.analysis.model_selection import AUTO, SelectionRequest
from superres.cli.backend_options import add_backend_options, load_upscaler
from superres.cli.enhance_files import AutoSelector, EnhancedFile, Pick, enhance_all
from superres.common.console import emit, say, show
from superres.common.errors import UsageError
from superres.image.codecs import OUTPUT_FORMATS
from superres.image.targets import plan_files
from superres.model.starters import STARTERS, find_bundle, find_bundles


def enhance(argv: Sequence[str]) -> int:
    """Enlarge pictures, or every picture of a folder, keeping their names."""
    arguments = _enhance_parser().parse_args(argv)
    if not 1 <= arguments.quality <= 100:
        raise UsageError(f"--quality must be from 1 to 100, not {arguments.quality}")
    if arguments.deadline is not None and arguments.deadline <= 0:
        raise UsageError(f"--deadline must be above 0 seconds, not {arguments.deadline:g}")
    if arguments.deadline is not None and arguments.model != AUTO:
        raise UsageError("--deadline needs --model auto")
    files = plan_files(
        arguments.inputs, arguments.out, arguments.format, overwrite=arguments.overwrite
    )
    written, failed = enhance_all(
        files,
        _picker(arguments),
        quality=arguments.quality,
        label=f"enlarging with {arguments.model}",
        passports=arguments.passport,
    )
    for source, reason in failed.items():
        say(f"left out {source}: {reason}")
    _print_enhanced(arguments, written, failed, len(files))
    return 1 if failed else 0


def _enhance_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharpline enhance", description=enhance.__doc__)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="files or folders")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT_FOLDER")
    parser.add_argument(
        "--model",
        default="compact_x4",
        help="a bundle folder, a starter's name, or auto: select a model for each picture",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=STARTERS,
        metavar="FOLDER",
        help="folder of the bundles that auto selects from (default: the starters)",
    )
    parser.add_argument("--scale", type=int, metavar="N", help="scale factor, for auto")
    parser.add_argument(
        "--deadline", type=float, metavar="SECONDS", help="longest time per picture, for auto"
    )
    parser.add_argument("--format", choices=OUTPUT_FORMATS, help="default: the input's format")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG and WebP, 1 to 100")
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT_FOLDER")
    parser.add_argument(
        "--no-passport",
        dest="passport",
        action="store_false",
        help="do not embed a passport in the files",
    )
    add_backend_options(parser, precision="auto")
    parser.add_argument("--json", action="store_true")
    return parser


def _picker(arguments: argparse.Namespace) -> Pick:
    """One model for all pictures, or an AutoSelector."""
    load = partial(load_upscaler, arguments=arguments)
    if arguments.model == AUTO:
        request = SelectionRequest(scale=arguments.scale, deadline_seconds=arguments.deadline)
        return AutoSelector(find_bundles(arguments.models), request, load)
    bundle = find_bundle(arguments.model)
    if arguments.scale not in (None, bundle.info.scale):
        raise UsageError(
            f"{bundle.info.name} has scale {bundle.info.scale}, not {arguments.scale}; choose "
            "another model, or --model auto"
        )
    upscaler = load(bundle)
    return lambda picture: (upscaler, "as requested")


def _print_enhanced(
    arguments: argparse.Namespace, written: list[EnhancedFile], failed: dict[str, str], count: int
) -> None:
    if arguments.json:
        emit(
            {
                "model": written[0].model
                if written and arguments.model != AUTO
                else arguments.model,
                "written": [str(each.file.target) for each in written],
                "chosen": [
                    {"picture": str(each.file.source), "model": each.model, "reason": each.reason}
                    for each in written
                ],
                "failed": [{"picture": name, "reason": why} for name, why in failed.items()],
            }
        )
        return
    if arguments.model == AUTO:
        for each in written:
            show(f"{each.file.source}: {each.reason}")
    models = ", ".join(sorted({each.model for each in written})) or arguments.model
    show(f"{len(written)} of {count} pictures enlarged by {models} into {arguments.out}")
