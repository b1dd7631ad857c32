"""The report's HTML, from a scorecard and its examples, as one self-contained file."""

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
from superres.evaluation.scorecard import (
    MetricSummary,
    Scorecard,
    format_interval,
    format_value,
)
from superres.quality.intervals import Interval


def page(
    card: Scorecard,
    worst: Sequence[ReportExample],
    best: Sequence[ReportExample],
    seams: Seams | None,
) -> str:
    """The complete HTML document."""
    style = resources.files("superres.evaluation.report").joinpath("style.css").read_text()
    title = f"{card.bundle.info.name} on {card.protocol.dataset}"
    parts = [
        _head(card),
        _metrics(card),
        _gains(card),
        _examples("Worst pictures", worst, "gains least"),
        _examples("Best pictures", best, "gains most"),
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
    psnr, count = card.summary("psnr"), len(card.pictures)
    gain = ""
    if psnr is not None:
        gain = (
            f'<p class="gain">{format_value(psnr.gain, 2, signed=True)} <span>dB over bicubic'
            f"{_interval_text(psnr.gain_interval, 2)}</span></p>"
        )
    return (
        f"<header>\n<h1>{escape(card.bundle.info.name)}</h1>\n"
        f"<p>{count} picture{'s' * (count != 1)} of <b>{escape(card.protocol.dataset)}</b>, "
        f"enlarged {card.protocol.scale} times, {escape(card.protocol.channel.upper())} channel</p>"
        f"\n{gain}\n</header>"
    )


def _interval_text(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return ""
    lower, upper = format_interval(interval, digits, signed=True)
    return f", with 95% confidence {lower} to {upper}"


def _metrics(card: Scorecard) -> str:
    rows = [_summary_row(summary) for summary in card.summaries]
    refused = [
        f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in card.refused.items()
    ]
    table = _table(("metric", "model", "95%", "bicubic", "gain", "95%"), rows)
    lacking = f'<p>Not measured:</p><ul class="refused">{"".join(refused)}</ul>' if refused else ""
    return f"<section>\n<h2>Metrics</h2>\n{table}\n{lacking}\n</section>"


def _summary_row(summary: MetricSummary) -> list[str]:
    digits = summary.metric.decimals
    arrow = "↑" if summary.metric.better == "higher" else "↓"
    title = f"{summary.metric.title} {summary.metric.unit}".strip()
    return [
        f'{escape(title)} <span class="arrow" title="{summary.metric.better} is better">{arrow}'
        "</span>",
        f"<b>{format_value(summary.mean, digits)}</b>",
        _range(summary.interval, digits),
        format_value(summary.bicubic, digits),
        _signed(summary.gain, digits),
        _range(summary.gain_interval, digits, signed=True),
    ]


def _gains(card: Scorecard) -> str:
    psnr = card.summary("psnr")
    if psnr is None or len(card.pictures) < 2:
        return ""
    gains = [picture.psnr_gain for picture in card.pictures]
    mean = psnr.gain if math.isfinite(psnr.gain) else 0.0
    return (
        "<section>\n<h2>Gains</h2>\n<p>PSNR gain over bicubic enlargement, per picture.</p>\n"
        f"{histogram(gains, mean, 'dB')}\n</section>"
    )


def _examples(title: str, examples: Sequence[ReportExample], which: str) -> str:
    if not examples:
        return ""
    shown = "\n".join(_example(example) for example in examples)
    return (
        f"<section>\n<h2>{title}</h2>\n<p>The crop of each picture that {which}. Error: black is "
        f"none, the brightest is {ERROR_LEVELS:.0f} grey levels of 255 or more.</p>\n{shown}\n"
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
    psnr = card.metrics["psnr"]
    name = escape(card.name)
    cells = "".join(
        f'<figure><img src="{data_uri(pixels)}" alt="{label} of {name}" '
        f'width="{pixels.shape[1]}" height="{pixels.shape[0]}"><figcaption>{label}</figcaption>'
        "</figure>"
        for label, pixels in panels
    )
    return (
        f"<h3>{name} <span>{format_value(psnr.ours, 2)} dB, {_signed(card.psnr_gain, 2)} over "
        f'bicubic</span></h3>\n<div class="panels">{cells}</div>'
    )


def _seams(seams: Seams | None) -> str:
    if seams is None:
        return ""
    largest = float(seams.levels_hw.max())
    shrunk = small_map(seams.levels_hw)
    return (
        "<section>\n<h2>Seams</h2>\n<p>Difference between tiled and whole-picture inference on "
        f"<b>{escape(seams.name)}</b>, where it is largest: at most {largest:.3f} grey levels of "
        "255, the brightest colour here.</p>\n"
        f'<img class="map" src="{data_uri(coloured(shrunk, largest))}" '
        f'alt="Map of the difference" width="{shrunk.shape[1]}" height="{shrunk.shape[0]}">\n'
        "</section>"
    )


def _pictures(card: Scorecard) -> str:
    metrics = [summary.metric for summary in card.summaries if summary.metric.name != "psnr"]
    heads = ("picture", "PSNR dB", "gain", "95%", *(metric.title for metric in metrics))
    ordered = sorted(card.pictures, key=lambda picture: picture.psnr_gain)
    rows = [
        [
            escape(picture.name),
            format_value(picture.metrics["psnr"].ours, 2),
            _signed(picture.psnr_gain, 2),
            _range(picture.psnr_gain_interval, 2, signed=True),
            *(
                format_value(picture.metrics[metric.name].ours, metric.decimals)
                for metric in metrics
            ),
        ]
        for picture in ordered
    ]
    return (
        f"<section>\n<h2>All pictures</h2>\n<details{' open' * (len(rows) <= 20)}><summary>"
        f"{len(rows)}, by gain</summary>\n{_table(heads, rows)}\n</details>\n</section>"
    )


def _measured(card: Scorecard) -> str:
    info, protocol = card.bundle.info, card.protocol
    facts = {
        "bundle": card.bundle.id,
        "network": info.arch.name,
        "trained with": info.training.degradation,
        "pictures": protocol.dataset,
        "scale": f"{protocol.scale}",
        "channel": f"{protocol.channel}; LPIPS and DISTS use RGB",
        "border crop": f"{protocol.border} pixels",
        "input made by": protocol.resampler,
        "inference": "whole pictures" if card.mode == "whole" else "in tiles, as served",
        **{summary.metric.title: summary.metric.variant for summary in card.summaries},
        "intervals": "bootstrap, 95%: over pictures; of a single picture, over its blocks",
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
    lower, upper = format_interval(interval, digits, signed=signed)
    return f'<span class="range">{lower} … {upper}</span>'


def _signed(value: float, digits: int) -> str:
    kind = "up" if value > 0 else "down" if value < 0 else "even"
    return f'<span class="{kind}">{format_value(value, digits, signed=True)}</span>'
