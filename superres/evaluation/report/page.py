"""The page's text: HTML made from a scorecard and a few crops, complete in one file."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from superres.evaluation.report.chart import histogram
from superres.evaluation.report.examples import ReportExample, Seams
from superres.evaluation.report.pictures import (
    ERROR_LEVELS,
    coloured,
    data_uri,
    error_map,
    small_map,
)
from superres.evaluation.scorecard import MetricSummary, PictureCard, Scorecard, digits_of, number
from superres.quality.intervals import Interval


def page(
    card: Scorecard,
    worst: Sequence[ReportExample],
    best: Sequence[ReportExample],
    seams: Seams | None,
) -> str:
    """The whole document."""
    style = resources.files("superres.evaluation.report").joinpath("style.css").read_text()
    title = f"{card.bundle.info.name} on {card.protocol.dataset}"
    parts = [
        _head(card),
        _figures(card),
        _gains(card),
        _examples("Where it does worst", worst, "least gained"),
        _examples("Where it does best", best, "most gained"),
        _seams(seams),
        _pictures(card),
        _measured(card),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(card: Scorecard) -> str:
    psnr, count = card.figure("psnr"), len(card.pictures)
    gain = ""
    if psnr is not None:
        gain = (
            f'<p class="gain">{number(psnr.gain, 2, signed=True)} <span>dB over bicubic'
            f"{_within(psnr.gain_interval, 2)}</span></p>"
        )
    return (
        f"<header>\n<h1>{escape(card.bundle.info.name)}</h1>\n"
        f"<p>{count} picture{'s' * (count != 1)} of <b>{escape(card.protocol.dataset)}</b>, "
        f"enlarged {card.protocol.scale} times, {escape(card.protocol.channel.upper())} channel</p>"
        f"\n{gain}\n</header>"
    )


def _within(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return ""
    lower, upper = (number(side, digits, signed=True) for side in (interval.lower, interval.upper))
    return f", with 95% confidence {lower} to {upper}"


def _figures(card: Scorecard) -> str:
    rows = [_figure_row(figure) for figure in card.figures]
    refused = [
        f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in card.refused.items()
    ]
    table = _table(("figure", "model", "95%", "bicubic", "gain", "95%"), rows)
    lacking = f'<p>Not measured:</p><ul class="refused">{"".join(refused)}</ul>' if refused else ""
    return f"<section>\n<h2>Figures</h2>\n{table}\n{lacking}\n</section>"


def _figure_row(figure: MetricSummary) -> list[str]:
    digits = digits_of(figure)
    arrow = "↑" if figure.metric.better == "higher" else "↓"
    title = f"{figure.metric.title} {figure.metric.unit}".strip()
    return [
        f'{escape(title)} <span class="arrow" title="{figure.metric.better} is better">{arrow}'
        "</span>",
        f"<b>{number(figure.mean, digits)}</b>",
        _range(figure.interval, digits),
        number(figure.bicubic, digits),
        _signed(figure.gain, digits),
        _range(figure.gain_interval, digits, signed=True),
    ]


def _gains(card: Scorecard) -> str:
    psnr = card.figure("psnr")
    if psnr is None or len(card.pictures) < 2:
        return ""
    gains = [picture.psnr_gain for picture in card.pictures]
    mean = psnr.gain if math.isfinite(psnr.gain) else 0.0
    return (
        "<section>\n<h2>Gains</h2>\n<p>Pictures by how much they gain on bicubic enlargement.</p>\n"
        f"{histogram(gains, mean, 'dB')}\n</section>"
    )


def _examples(title: str, examples: Sequence[ReportExample], which: str) -> str:
    if not examples:
        return ""
    shown = "\n".join(_example(example) for example in examples)
    return (
        f"<section>\n<h2>{title}</h2>\n<p>The part of each picture where it {which}. Error: black "
        f"is none, the brightest is {ERROR_LEVELS:.0f} grey levels of 255 or more.</p>\n{shown}\n"
        "</section>"
    )


def _example(example: ReportExample) -> str:
    panels = (
        ("input", example.input_hwc),
        ("bicubic", example.bicubic_hwc),
        ("model", example.model_hwc),
        ("truth", example.truth_hwc),
        ("error", error_map(example.model_hwc, example.truth_hwc)),
    )
    card = example.card
    psnr = card.figures["psnr"]
    name = escape(card.name)
    cells = "".join(
        f'<figure><img src="{data_uri(pixels)}" alt="{label} of {name}" '
        f'width="{pixels.shape[1]}" height="{pixels.shape[0]}"><figcaption>{label}</figcaption>'
        "</figure>"
        for label, pixels in panels
    )
    return (
        f"<h3>{name} <span>{number(psnr.ours, 2)} dB, {_signed(card.psnr_gain, 2)} on bicubic"
        f'</span></h3>\n<div class="panels">{cells}</div>'
    )


def _seams(seams: Seams | None) -> str:
    if seams is None:
        return ""
    largest = float(seams.levels_hw.max())
    shrunk = small_map(seams.levels_hw)
    return (
        "<section>\n<h2>Seams</h2>\n<p>What cutting into tiles changes against the whole picture, "
        f"on <b>{escape(seams.name)}</b>, where it changes most: at most {largest:.3f} grey levels "
        "of 255, which is the brightest colour here.</p>\n"
        f'<img class="map" src="{data_uri(coloured(shrunk, largest))}" '
        f'alt="Map of the difference" width="{shrunk.shape[1]}" height="{shrunk.shape[0]}">\n'
        "</section>"
    )


def _pictures(card: Scorecard) -> str:
    metrics = [figure.metric for figure in card.figures if figure.metric.name != "psnr"]
    heads = ("picture", "PSNR dB", "gain", "95%", *(metric.title for metric in metrics))
    ordered = sorted(card.pictures, key=lambda picture: picture.psnr_gain)
    rows = [
        [
            escape(picture.name),
            number(picture.figures["psnr"].ours, 2),
            _signed(picture.psnr_gain, 2),
            _range(picture.psnr_gain_interval, 2, signed=True),
            *(_cell(picture, metric.name) for metric in metrics),
        ]
        for picture in ordered
    ]
    return (
        f"<section>\n<h2>Every picture</h2>\n<details{' open' * (len(rows) <= 20)}><summary>"
        f"{len(rows)}, by their gain</summary>\n{_table(heads, rows)}\n</details>\n</section>"
    )


def _cell(picture: PictureCard, metric: str) -> str:
    digits = 2 if metric == "niqe" else 4
    return number(picture.figures[metric].ours, digits)


def _measured(card: Scorecard) -> str:
    info, protocol = card.bundle.info, card.protocol
    facts = {
        "bundle": card.bundle.id,
        "network": info.arch.name,
        "trained with": info.training.degradation,
        "pictures": protocol.dataset,
        "scale": f"{protocol.scale}",
        "channel": f"{protocol.channel}; LPIPS and DISTS look at RGB",
        "border crop": f"{protocol.border} pixels",
        "input made by": protocol.resampler,
        "answers": "whole pictures" if card.way == "whole" else "in tiles, as served",
        **{figure.metric.title: figure.metric.variant for figure in card.figures},
        "intervals": "bootstrap, 95%: over pictures; of one picture, over its blocks",
    }
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()
    )
    return f"<section>\n<h2>How this was measured</h2>\n<dl>{items}</dl>\n</section>"


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table></div>"
    )


def _range(interval: Interval | None, digits: int, *, signed: bool = False) -> str:
    if interval is None:
        return "&ndash;"
    lower, upper = (
        number(side, digits, signed=signed) for side in (interval.lower, interval.upper)
    )
    return f'<span class="range">{lower} … {upper}</span>'


def _signed(value: float, digits: int) -> str:
    kind = "up" if value > 0 else "down" if value < 0 else "even"
    return f'<span class="{kind}">{number(value, digits, signed=True)}</span>'
