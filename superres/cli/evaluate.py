"""`sharpline evaluate`: score models on held-out pictures."""

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
from superres.quality.metrics import DEFAULT_METRICS, QUALITY_METRICS, load_metrics, weights_folder

REQUIRED_METRICS = ("psnr", "ssim")


def evaluate(argv: Sequence[str]) -> int:
    """Score bundles on held-out pictures, with every metric that is available here."""
    parser = argparse.ArgumentParser(prog="sharpline evaluate", description=evaluate.__doc__)
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="a bundle folder, or a starter's name"
    )
    parser.add_argument(
        "--on",
        nargs="+",
        required=True,
        metavar="PICTURES",
        help="a folder of high-resolution pictures, a dataset, or a fetched source",
    )
    parser.add_argument("--channel", choices=("y", "rgb"), default="y")
    parser.add_argument("--split", default="validation", help="split of a dataset")
    parser.add_argument(
        "--metrics",
        default=",".join(DEFAULT_METRICS),
        help=f"metrics, comma-separated: {','.join(QUALITY_METRICS.built_in)}, or those of "
        "installed packages (default: %(default)s)",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="weights of LPIPS, DISTS, NIQE and others"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="score whole-picture inference, and report how far tiles differ from it",
    )
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write an HTML report")
    parser.add_argument("--table", action="store_true", help="one Markdown row per bundle")
    add_backend_options(parser, precision="fp32")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    options = EvaluateOptions(
        channel=arguments.channel,
        split=arguments.split,
        metrics=metric_names(arguments.metrics, table=arguments.table),
        weights=arguments.weights,
        whole=arguments.whole,
        report=arguments.report,
    )
    if arguments.report and len(arguments.bundles) * len(arguments.on) > 1:
        raise UsageError("--report takes one bundle and one set")
    cards = run(
        arguments.bundles, arguments.on, options, partial(load_upscaler, arguments=arguments)
    )
    print_scorecards(cards, as_json=arguments.json, as_table=arguments.table)
    if arguments.report:
        say(f"report: {arguments.report / 'index.html'}")
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """The metrics and how they are measured; `report` is the folder of the HTML report."""

    channel: str
    split: str
    metrics: tuple[str, ...]
    weights: Path | None
    whole: bool
    report: Path | None


def metric_names(text: str, *, table: bool) -> tuple[str, ...]:
    """Parse comma-separated metric names; PSNR and SSIM are always included, alone in a table.

    Raises UsageError for an unknown name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        QUALITY_METRICS.get(name)  # raises UsageError for an unknown name
    return REQUIRED_METRICS if table else tuple(dict.fromkeys([*REQUIRED_METRICS, *names]))


def run(
    bundles: Sequence[str],
    sets: Sequence[str],
    options: EvaluateOptions,
    load: Callable[[Bundle], Upscaler],
) -> list[Scorecard]:
    """A scorecard of every bundle on every set, in the order given."""
    loaded = [find_bundle(name) for name in bundles]
    held_out = [find_held_out(name) for name in sets]
    return [card for bundle in loaded for card in _score_bundle(bundle, held_out, options, load)]


def _score_bundle(
    bundle: Bundle,
    held_out: Sequence[HeldOut],
    options: EvaluateOptions,
    load: Callable[[Bundle], Upscaler],
) -> Iterator[Scorecard]:
    upscaler = load(bundle)
    metrics, refused = load_metrics(options.metrics, weights_folder(options.weights))
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
                compare_tiling=options.whole or gallery is not None,
                report=gallery.add if gallery is not None else lambda report: None,
            )
            if gallery is not None and options.report is not None:
                gallery.write(options.report, card)
            yield card
    finally:
        upscaler.backend.close()
