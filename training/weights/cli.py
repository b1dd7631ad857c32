"""`sharpline models pull` and `sharpline models import`: bundles from external weights."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from superres.common.console import print_result
from superres.common.environment import state_folder
from superres.common.errors import UsageError
from superres.model.bundle import Bundle


def pull(argv: Sequence[str]) -> int:
    """Download official weights by name, verify them, and convert them to a bundle."""
    from training.weights.official import PUBLISHED

    parser = argparse.ArgumentParser(
        prog="sharpline models pull",
        description=pull.__doc__,
        epilog="names: " + ", ".join(published.name for published in PUBLISHED),
    )
    parser.add_argument("name", metavar="NAME", help="one of the names below")
    parser.add_argument(
        "--from",
        type=Path,
        dest="mirror",
        metavar="PATH",
        help="local file, or folder of files with the published names, instead of a download",
    )
    _add_common(parser)
    arguments = parser.parse_args(argv)
    from training.weights.external import read_external
    from training.weights.pull import fetch_file, find_published, obtain
    from training.weights.weight_import import WeightsProvenance, import_weights

    published = find_published(arguments.name)
    path = obtain(published, arguments.mirror, state_folder() / "weights", fetch_file)
    provenance = WeightsProvenance(
        name=published.name,
        licence=published.licence,
        url=published.url,
        trained_on=published.trained_on,
        adversarial=published.adversarial,
    )
    return _print_bundle(
        arguments, import_weights(read_external(path), provenance, arguments.out, recipe=None)
    )


def import_(argv: Sequence[str]) -> int:
    """Convert a file of weights to a bundle: the layouts of basicsr, Real-ESRGAN and SwinIR, old
    ESRGAN names, or safetensors. Pickles are read in a separate process, weights only."""
    parser = argparse.ArgumentParser(prog="sharpline models import", description=import_.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help=".pth, .pt, .ckpt, .safetensors")
    parser.add_argument("--name", required=True, metavar="N", help="name of the model")
    parser.add_argument(
        "--licence", required=True, metavar="TEXT", help="of the weights, as their author states it"
    )
    parser.add_argument("--source", metavar="URL", help="URL where the file was published")
    parser.add_argument(
        "--trained-on",
        action="append",
        default=[],
        type=_source_and_licence,
        metavar="SOURCE=LICENCE",
        help="training pictures and their licence; repeatable",
    )
    parser.add_argument(
        "--adversarial",
        action="store_true",
        help="trained with a discriminator: evaluate it by perceptual metrics",
    )
    parser.add_argument("--recipe", metavar="R", help="recipe whose network it must match")
    _add_common(parser)
    arguments = parser.parse_args(argv)
    from training.recipe import load_recipe
    from training.weights.external import read_external
    from training.weights.weight_import import WeightsProvenance, import_weights

    if not arguments.licence.strip():
        raise UsageError("--licence is empty; state the licence of the weights")
    provenance = WeightsProvenance(
        name=arguments.name,
        licence=arguments.licence.strip(),
        url=arguments.source,
        trained_on=tuple(arguments.trained_on),
        adversarial=arguments.adversarial,
    )
    recipe = load_recipe(arguments.recipe) if arguments.recipe else None
    return _print_bundle(
        arguments, import_weights(read_external(arguments.file), provenance, arguments.out, recipe)
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=state_folder() / "models",
        metavar="DIR",
        help="write the bundle to DIR/NAME (default: STATE/models)",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON line")


def _print_bundle(arguments: argparse.Namespace, bundle: Bundle) -> int:
    info = bundle.info
    result: dict[str, object] = {
        "model": info.name,
        "bundle": str(bundle.root),
        "bundle_id": bundle.id,
        "scale": info.scale,
        "network": info.arch.name,
        "licence": info.licence.weights,
        "commercial_use": info.licence.commercial_use,
    }
    print_result(result, arguments.json)
    return 0


def _source_and_licence(text: str) -> tuple[str, str]:
    source, separator, licence = text.partition("=")
    if not (separator and source.strip() and licence.strip()):
        raise argparse.ArgumentTypeError(f"{text!r}: write SOURCE=LICENCE")
    return source.strip(), licence.strip()
