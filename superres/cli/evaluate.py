"""What `sharpline evaluate` does with its words: scorecards, and how they are told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from superres.model.bundle import Bundle
from superres.common.console import (emit, show, track)
from superres.common.errors import UsageError
from superres.evaluation.held_out import (HeldOut, find_held_out)
from superres.quality.metrics import NAMES, load_metrics, weights_folder
from superres.evaluation.scorecard import (Figure, Scorecard, digits_of, make_scorecard, number)
from superres.evaluation.scorecard_json import json_of
from superres.model.starters import find_bundle
from superres.model.upscaler import Upscaler

ALWAYS = ("psnr", "ssim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
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
    bundles: Sequence[str], sets: Sequence[str], asked: Asked, load: Callable[[Bundle], Upscaler]
) -> list[Scorecard]:
    """A scorecard of every bundle on every set, in the order of the words."""
    found = [find_bundle(word) for word in bundles]
    held_out = [find_held_out(word) for word in sets]
    return [card for bundle in found for card in _of_bundle(bundle, held_out, asked, load)]


def _of_bundle(
    bundle: Bundle,
    held_out: Sequence[HeldOut],
    asked: Asked,
    load: Callable[[Bundle], Upscaler],
) -> Iterator[Scorecard]:
    upscaler = load(bundle)
    metrics, refused = load_metrics(asked.figures, weights_folder(asked.weights))
    try:
        for pictures in held_out:
            pairs = pictures.pairs(bundle.info.scale, asked.split)
            protocol = pairs.protocol(asked.channel)
            gallery = None
            if asked.report is not None:
                from superres.evaluation.report import Gallery

                gallery = Gallery(protocol)
            card = make_scorecard(
                upscaler,
                track(pairs.pairs, f"scoring {bundle.info.name}", len(pairs.names)),
                protocol,
                metrics,
                refused=refused,
                whole=asked.whole,
                compare_ways=asked.whole or gallery is not None,
                look=gallery.add if gallery is not None else lambda look: None,
            )
            if gallery is not None and asked.report is not None:
                gallery.write(asked.report, card)
            yield card
    finally:
        upscaler.backend.close()


def answer(cards: Sequence[Scorecard], *, as_json: bool, as_table: bool) -> None:
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


def _figure_row(figure: Figure) -> tuple[str, ...]:
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
