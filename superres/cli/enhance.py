"""`sharpline enhance`: files and folders of pictures enlarged on this machine."""

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
    """Enlarge pictures, or every picture of folders, keeping their names."""
    arguments = _enhance_parser().parse_args(argv)
    if not 1 <= arguments.quality <= 100:
        raise UsageError(f"--quality is a number from 1 to 100, not {arguments.quality}")
    if arguments.deadline is not None and arguments.deadline <= 0:
        raise UsageError(f"--deadline is a number of seconds above 0, not {arguments.deadline:g}")
    if arguments.deadline is not None and arguments.model != AUTO:
        raise UsageError("--deadline chooses between models: give it with --model auto")
    files = plan_files(
        arguments.inputs, arguments.out, arguments.format, overwrite=arguments.overwrite
    )
    done, failed = enhance_all(
        files,
        _pick(arguments),
        quality=arguments.quality,
        label=f"enlarging with {arguments.model}",
        passports=arguments.passport,
    )
    for source, reason in failed.items():
        say(f"left out {source}: {reason}")
    _answer_enhanced(arguments, done, failed, len(files))
    return 1 if failed else 0


def _enhance_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharpline enhance", description=enhance.__doc__)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="files or folders")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT_FOLDER")
    parser.add_argument(
        "--model",
        default="compact_x4",
        help="a bundle folder, a starter's name, or auto: the one that fits each picture",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=STARTERS,
        metavar="FOLDER",
        help="of bundles that auto chooses from (default: the starters)",
    )
    parser.add_argument("--scale", type=int, metavar="N", help="how many times, for auto")
    parser.add_argument(
        "--deadline", type=float, metavar="SECONDS", help="that a picture may take, for auto"
    )
    parser.add_argument("--format", choices=OUTPUT_FORMATS, help="default: that of the input")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG and WebP, 1 to 100")
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT_FOLDER")
    parser.add_argument(
        "--no-passport",
        dest="passport",
        action="store_false",
        help="do not write into the files which model made them",
    )
    add_backend_options(parser, precision="auto")
    parser.add_argument("--json", action="store_true")
    return parser


def _pick(arguments: argparse.Namespace) -> Pick:
    """One model for all pictures, or the one that fits each."""
    load = partial(load_upscaler, arguments=arguments)
    if arguments.model == AUTO:
        request = SelectionRequest(scale=arguments.scale, deadline_seconds=arguments.deadline)
        return AutoSelector(find_bundles(arguments.models), request, load)
    bundle = find_bundle(arguments.model)
    if arguments.scale not in (None, bundle.info.scale):
        raise UsageError(
            f"{bundle.info.name} enlarges {bundle.info.scale} times, not {arguments.scale}; name "
            "another model, or give --model auto"
        )
    upscaler = load(bundle)
    return lambda picture: (upscaler, "as asked")


def _answer_enhanced(
    arguments: argparse.Namespace, done: list[EnhancedFile], failed: dict[str, str], count: int
) -> None:
    if arguments.json:
        emit(
            {
                "model": done[0].model if done and arguments.model != AUTO else arguments.model,
                "written": [str(each.file.target) for each in done],
                "chosen": [
                    {"picture": str(each.file.source), "model": each.model, "reason": each.reason}
                    for each in done
                ],
                "failed": [{"picture": name, "reason": why} for name, why in failed.items()],
            }
        )
        return
    if arguments.model == AUTO:
        for each in done:
            show(f"{each.file.source}: {each.reason}")
    models = ", ".join(sorted({each.model for each in done})) or arguments.model
    show(f"{len(done)} of {count} pictures enlarged by {models} into {arguments.out}")
