"""Scorecards as text: tables for a terminal, Markdown, JSON."""

from collections.abc import Sequence

from superres.common.console import emit, show
from superres.evaluation.scorecard import (
    MetricSummary,
    Scorecard,
    format_interval,
    format_value,
)
from superres.evaluation.scorecard_json import json_of
from superres.model.bundle import Bundle
from superres.quality.intervals import Interval


def print_scorecards(cards: Sequence[Scorecard], *, as_json: bool, as_table: bool) -> None:
    """Print scorecards as JSON, as a Markdown table or as tables for a terminal."""
    if as_json:
        emit(_json(cards))
    elif as_table:
        show(markdown_table(cards))
    else:
        for card in cards:
            show_card(card)


def _json(cards: Sequence[Scorecard]) -> dict[str, object]:
    if len(cards) == 1:
        return json_of(cards[0])
    return {"results": [json_of(card) for card in cards]}


def show_card(card: Scorecard) -> None:
    """Print every picture's PSNR and SSIM and bicubic's, then every metric's mean and interval."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    pictures = Table(
        *("picture", "PSNR dB", "gain dB", "95%", "SSIM", "bicubic PSNR dB", "bicubic SSIM"),
        title=f"{card.bundle.info.name} on {card.protocol}",
    )
    for picture in card.pictures:
        psnr, ssim = picture.metrics["psnr"], picture.metrics["ssim"]
        pictures.add_row(
            picture.name,
            format_value(psnr.ours, 2),
            format_value(picture.psnr_gain, 2, signed=True),
            _range(picture.psnr_gain_interval, 2),
            format_value(ssim.ours, 4),
            format_value(psnr.bicubic, 2),
            format_value(ssim.bicubic, 4),
        )
    console.print(pictures)
    means = Table("mean", card.bundle.info.name, "95%", "bicubic", "gain", "95%")
    for summary in card.summaries:
        means.add_row(*_summary_row(summary))
    console.print(means)
    for name, why in card.refused.items():
        show(f"no {name}: {why}")
    if card.seam_levels is not None:
        show(f"tiles differ by at most {card.seam_levels:.3f} grey levels of 255")


def _summary_row(summary: MetricSummary) -> tuple[str, ...]:
    digits = summary.metric.decimals
    return (
        f"{summary.metric.title} {summary.metric.unit}".strip(),
        format_value(summary.mean, digits),
        _range(summary.interval, digits, signed=False),
        format_value(summary.bicubic, digits),
        format_value(summary.gain, digits, signed=True),
        _range(summary.gain_interval, digits),
    )


def _range(interval: Interval | None, digits: int, *, signed: bool = True) -> str:
    return "" if interval is None else " to ".join(format_interval(interval, digits, signed=signed))


def markdown_table(cards: Sequence[Scorecard]) -> str:
    """One row per bundle, as in the README: its network, and PSNR and SSIM on each set."""
    sets = list(dict.fromkeys(card.protocol.dataset for card in cards))
    names = list(dict.fromkeys(card.bundle.info.name for card in cards))
    by_key = {(card.bundle.info.name, card.protocol.dataset): card for card in cards}
    titles = ["model", "network"]
    for each in sets:
        titles += [f"{each} PSNR dB / SSIM", "bicubic"]
    lines = [
        f"| {' | '.join([*titles, 'trained', 'size'])} |",
        f"|{'---|' * (len(titles) + 2)}",
    ]
    for name in names:
        own = [by_key[name, each] for each in sets]
        bundle = own[0].bundle
        scores = [cell for card in own for cell in _pair(card)]
        cells = [f"`{name}`", network(bundle), *scores, trained(bundle), size(bundle)]
        lines.append(f"| {' | '.join(cells)} |")
    first = cards[0].protocol
    devices = dict.fromkeys(card.bundle.info.training.device for card in cards)
    lines += [
        "",
        f"{first.channel.upper()} channel, border crop = scale, inputs by {first.resampler}; "
        f"trained on {' and '.join(devices)}.",
    ]
    return "\n".join(lines)


def _pair(card: Scorecard) -> tuple[str, str]:
    """The cells with PSNR and SSIM of the model and of bicubic."""
    psnr, ssim = card.summary("psnr"), card.summary("ssim")
    if psnr is None or ssim is None:
        return "", ""
    return (
        f"{format_value(psnr.mean, 2)} / {ssim.mean:.4f}",
        f"{format_value(psnr.bicubic, 2)} / {ssim.bicubic:.4f}",
    )


def network(bundle: Bundle) -> str:
    """The network and its number of weights."""
    weights = sum(int(value.size) for value in bundle.weights().values())
    return f"{bundle.info.arch.name}, {weights / 1e3:,.0f} k weights"


def trained(bundle: Bundle) -> str:
    """The training's steps, time and parent bundle."""
    training = bundle.info.training
    seconds = training.seconds
    time = f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
    after = f" after bundle {training.parent[:7]}" if training.parent else ""
    return f"{training.steps:,} steps, {time}{after}"


def size(bundle: Bundle) -> str:
    """The size of the bundle's files."""
    files = sum(path.stat().st_size for path in bundle.root.rglob("*") if path.is_file())
    return f"{files / 1e6:.1f} MB"
