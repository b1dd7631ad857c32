"""`sharpline evaluate`: models scored on held-out pictures."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from superres.cli.backend_options import add_backend_options, load_upscaler
from superres.common.console import say, track
from superres.common.errors import UsageError
from superres.evaluation.held_out import HeldOut, find_held_out
from superres.evaluation.scorecard import Scorecard, make_scorecard
from superres.evaluation.tables import print_scorecards
from superres.model.bundle import Bundle
from superres.model.starters import find_bundle
from superres.model.upscaler import Upscaler
from superres.quality.metrics import NAMES, USUAL, load_metrics, weights_folder

ALWAYS = ("psnr", "ssim")


def evaluate(argv: Sequence[str]) -> int:
    """Score bundles on held-out pictures, by every figure that can be measured here."""
    parser = argparse.ArgumentParser(prog="sharpline evaluate", description=evaluate.__doc__)
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="a bundle folder, or a starter's name"
    )
    parser.add_argument(
        "--on",
        nargs="+",
        required=True,
        metavar="PICTURES",
        help="a folder of high-resolution pictures, a dataset, or a source that was fetched",
    )
    parser.add_argument("--channel", choices=("y", "rgb"), default="y")
    parser.add_argument("--split", default="validation", help="of a dataset")
    parser.add_argument(
        "--figures",
        default=",".join(USUAL),
        help=f"some of {','.join(NAMES)}, with commas (default: %(default)s)",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="weights of LPIPS, DISTS (and NIQE)"
    )
    parser.add_argument(
        "--whole", action="store_true", help="score whole pictures, and say what tiles change"
    )
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write a page to look at")
    parser.add_argument("--table", action="store_true", help="a Markdown row for each bundle")
    add_backend_options(parser, precision="fp32")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    options = EvaluateOptions(
        channel=arguments.channel,
        split=arguments.split,
        figures=figure_names(arguments.figures, table=arguments.table),
        weights=arguments.weights,
        whole=arguments.whole,
        report=arguments.report,
    )
    if arguments.report and len(arguments.bundles) * len(arguments.on) > 1:
        raise UsageError("--report is about one bundle on one set; name one of each")
    found = run(
        arguments.bundles, arguments.on, options, partial(load_upscaler, arguments=arguments)
    )
    print_scorecards(found, as_json=arguments.json, as_table=arguments.table)
    if arguments.report:
        say(f"report: {arguments.report / 'index.html'}")
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What to measure and how; `report` is the folder of a page to look at, None for none."""

    channel: str
    split: str
    figures: tuple[str, ...]
    weights: Path | None
    whole: bool
    report: Path | None


def figure_names(written: str, *, table: bool) -> tuple[str, ...]:
    """Names written with commas; PSNR and SSIM come always, and alone in a table.

    Raises UsageError for a name there is not.
    """
    names = [name.strip() for name in written.split(",") if name.strip()]
    if unknown := [name for name in names if name not in NAMES]:
        raise UsageError(f"no figure {unknown[0]!r}; there are: {', '.join(NAMES)}")
    return ALWAYS if table else tuple(dict.fromkeys([*ALWAYS, *names]))


def run(
    bundles: Sequence[str],
    sets: Sequence[str],
    options: EvaluateOptions,
    load: Callable[[Bundle], Upscaler],
) -> list[Scorecard]:
    """A scorecard of every bundle on every set, in the order of the words."""
    found = [find_bundle(name) for name in bundles]
    held_out = [find_held_out(name) for name in sets]
    return [card for bundle in found for card in _of_bundle(bundle, held_out, options, load)]


def _of_bundle(
    bundle: Bundle,
    held_out: Sequence[HeldOut],
    options: EvaluateOptions,
    load: Callable[[Bundle], Upscaler],
) -> Iterator[Scorecard]:
    upscaler = load(bundle)
    metrics, refused = load_metrics(options.figures, weights_folder(options.weights))
    try:
        for pictures in held_out:
            pairs = pictures.pairs(bundle.info.scale, options.split)
            protocol = pairs.protocol(options.channel)
            gallery = None
            if options.report is not None:
                from superres.evaluation.report import ExampleGallery

                gallery = ExampleGallery(protocol)
            card = make_scorecard(
                upscaler,
                track(pairs.pairs, f"scoring {bundle.info.name}", len(pairs.names)),
                protocol,
                metrics,
                refused=refused,
                whole=options.whole,
                compare_ways=options.whole or gallery is not None,
                report=gallery.add if gallery is not None else lambda report: None,
            )
            if gallery is not None and options.report is not None:
                gallery.write(options.report, card)
            yield card
    finally:
        upscaler.backend.close()
