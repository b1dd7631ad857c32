"""`sharpline models pull` and `sharpline models import`: other people's weights become bundles."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from superres.common.console import print_result
from superres.common.environment import state_folder
from superres.common.errors import UsageError
from superres.model.bundle import Bundle


def pull(argv: Sequence[str]) -> int:
    """Fetch official weights by name, check them, and make a bundle of them."""
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
        help="a file, or a folder of files of the published names, instead of the network",
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
        address=published.address,
        trained_on=published.trained_on,
        adversarial=published.adversarial,
    )
    return _answer(
        arguments, import_weights(read_external(path), provenance, arguments.out, recipe=None)
    )


def import_(argv: Sequence[str]) -> int:
    """Make a bundle of a file of weights: basicsr's, Real-ESRGAN's or SwinIR's layout, old ESRGAN
    names, or safetensors. A pickle in it is read in a process of its own, weights only."""
    parser = argparse.ArgumentParser(prog="sharpline models import", description=import_.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help=".pth, .pt, .ckpt, .safetensors")
    parser.add_argument("--name", required=True, metavar="N", help="what the model is called")
    parser.add_argument(
        "--licence", required=True, metavar="TEXT", help="of the weights, as their author states it"
    )
    parser.add_argument("--source", metavar="URL", help="where the file was published")
    parser.add_argument(
        "--trained-on",
        action="append",
        default=[],
        type=_pictures,
        metavar="SOURCE=LICENCE",
        help="pictures it learned from and their licence; may be given again",
    )
    parser.add_argument(
        "--adversarial",
        action="store_true",
        help="it was trained against a discriminator, so judge it by perception",
    )
    parser.add_argument("--recipe", metavar="R", help="a recipe whose network it must be of")
    _add_common(parser)
    arguments = parser.parse_args(argv)
    from training.recipe import load_recipe
    from training.weights.external import read_external
    from training.weights.weight_import import WeightsProvenance, import_weights

    if not arguments.licence.strip():
        raise UsageError(
            "--licence says under which terms the weights were published; what are they?"
        )
    provenance = WeightsProvenance(
        name=arguments.name,
        licence=arguments.licence.strip(),
        address=arguments.source,
        trained_on=tuple(arguments.trained_on),
        adversarial=arguments.adversarial,
    )
    recipe = load_recipe(arguments.recipe) if arguments.recipe else None
    return _answer(
        arguments, import_weights(read_external(arguments.file), provenance, arguments.out, recipe)
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=state_folder() / "models",
        metavar="DIR",
        help="the bundle becomes DIR/NAME (default: models/ of the state)",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON line")


def _answer(arguments: argparse.Namespace, bundle: Bundle) -> int:
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


def _pictures(text: str) -> tuple[str, str]:
    source, separator, licence = text.partition("=")
    if not (separator and source.strip() and licence.strip()):
        raise argparse.ArgumentTypeError(f"{text!r}: write SOURCE=LICENCE")
    return source.strip(), licence.strip()
