"""Scorecards as text: tables for people, Markdown for a page, JSON for scripts."""

from collections.abc import Sequence

from superres.common.console import emit, show
from superres.evaluation.scorecard import MetricSummary, Scorecard, digits_of, number
from superres.evaluation.scorecard_json import json_of
from superres.model.bundle import Bundle


def print_scorecards(cards: Sequence[Scorecard], *, as_json: bool, as_table: bool) -> None:
    """Tell what was found: JSON for a script, Markdown for a page, tables for a person."""
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
    """Every picture's PSNR and SSIM beside bicubic's, then every figure's mean and interval."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    pictures = Table(
        *("picture", "PSNR dB", "gain dB", "95%", "SSIM", "bicubic PSNR dB", "bicubic SSIM"),
        title=f"{card.bundle.info.name} on {card.protocol}",
    )
    for picture in card.pictures:
        psnr, ssim = picture.figures["psnr"], picture.figures["ssim"]
        interval = picture.psnr_gain_interval
        pictures.add_row(
            picture.name,
            number(psnr.ours, 2),
            number(picture.psnr_gain, 2, signed=True),
            "" if interval is None else _range(interval.lower, interval.upper, 2),
            number(ssim.ours, 4),
            number(psnr.bicubic, 2),
            number(ssim.bicubic, 4),
        )
    console.print(pictures)
    means = Table("mean", card.bundle.info.name, "95%", "bicubic", "gain", "95%")
    for figure in card.figures:
        means.add_row(*_figure_row(figure))
    console.print(means)
    for name, why in card.refused.items():
        show(f"no {name}: {why}")
    if card.seam_levels is not None:
        show(f"tiles change at most {card.seam_levels:.3f} grey levels of 255")


def _figure_row(figure: MetricSummary) -> tuple[str, ...]:
    digits = digits_of(figure)
    own, gained = figure.interval, figure.gain_interval
    return (
        f"{figure.metric.title} {figure.metric.unit}".strip(),
        number(figure.mean, digits),
        "" if own is None else _range(own.lower, own.upper, digits, signed=False),
        number(figure.bicubic, digits),
        number(figure.gain, digits, signed=True),
        "" if gained is None else _range(gained.lower, gained.upper, digits),
    )


def _range(lower: float, upper: float, digits: int, *, signed: bool = True) -> str:
    return f"{number(lower, digits, signed=signed)} to {number(upper, digits, signed=signed)}"


def markdown_table(cards: Sequence[Scorecard]) -> str:
    """A row for each bundle, as in the README: what it is, and PSNR and SSIM on each set."""
    sets = list(dict.fromkeys(card.protocol.dataset for card in cards))
    names = list(dict.fromkeys(card.bundle.info.name for card in cards))
    by_place = {(card.bundle.info.name, card.protocol.dataset): card for card in cards}
    titles = ["model", "network"]
    for each in sets:
        titles += [f"{each} PSNR dB / SSIM", "bicubic"]
    lines = [
        f"| {' | '.join([*titles, 'trained', 'size'])} |",
        f"|{'---|' * (len(titles) + 2)}",
    ]
    for name in names:
        own = [by_place[name, each] for each in sets]
        bundle = own[0].bundle
        figures = [cell for card in own for cell in _pair(card)]
        cells = [f"`{name}`", network(bundle), *figures, trained(bundle), size(bundle)]
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
    """PSNR and SSIM, and bicubic's."""
    psnr, ssim = card.figure("psnr"), card.figure("ssim")
    if psnr is None or ssim is None:
        return "", ""
    return (
        f"{number(psnr.mean, 2)} / {ssim.mean:.4f}",
        f"{number(psnr.bicubic, 2)} / {ssim.bicubic:.4f}",
    )


def network(bundle: Bundle) -> str:
    """The network and how large it is."""
    weights = sum(int(value.size) for value in bundle.weights().values())
    return f"{bundle.info.arch.name}, {weights / 1e3:,.0f} k weights"


def trained(bundle: Bundle) -> str:
    """How long the weights were trained, and after which others they went on."""
    training = bundle.info.training
    seconds = training.seconds
    time = f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
    after = f" after bundle {training.parent[:7]}" if training.parent else ""
    return f"{training.steps:,} steps, {time}{after}"


def size(bundle: Bundle) -> str:
    """What the bundle's files take."""
    files = sum(path.stat().st_size for path in bundle.root.rglob("*") if path.is_file())
    return f"{files / 1e6:.1f} MB"
