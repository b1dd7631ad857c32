"""The gate's human-readable report: report.md and crops of the worst and the best picture."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from release.evidence import Evidence, Outcome
from release.trial import PictureMetrics, TrialExample
from superres.common.files import write_bytes
from superres.image.codecs import Picture, write

Array = npt.NDArray[Any]

GAP_PIXELS = 6
ENLARGED = 2  # factor by which crops are enlarged, nearest-neighbour
MARKS = {True: "passed", False: "**refused**", None: "not judged"}


def write_report(folder: Path, evidence: Evidence, worst: TrialExample, best: TrialExample) -> None:
    """Write report.md, worst.png and best.png into an existing folder."""
    write(folder / "worst.png", side_by_side(worst.panels))
    write(folder / "best.png", side_by_side(best.panels))
    write_bytes(folder / "report.md", _markdown(evidence, worst, best).encode())


def side_by_side(panels_hwc: tuple[Array, ...]) -> Picture:
    """Crops of one size in a row with white gaps, enlarged by nearest neighbour."""
    gap_hwc = np.full_like(panels_hwc[0][:, :1], np.iinfo(panels_hwc[0].dtype).max)
    gap_hwc = gap_hwc.repeat(GAP_PIXELS // ENLARGED, axis=1)
    row = [part for panel_hwc in panels_hwc for part in (gap_hwc, panel_hwc)][1:]
    joined_hwc = np.concatenate(row, axis=1)
    return Picture(rgb_hwc=joined_hwc.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1))


def _markdown(evidence: Evidence, worst: TrialExample, best: TrialExample) -> str:
    champion = evidence.champion
    against = f"version {champion.version}, the champion" if champion else "bicubic (no champion)"
    order = "bicubic, champion, challenger, truth" if champion else "bicubic, challenger, truth"
    lines = [
        f"# {evidence.model} version {evidence.challenger.version}: "
        f"{'passed' if evidence.passed else 'refused'}",
        "",
        f"Against {against}, on {evidence.protocol['dataset']} (scale "
        f"{evidence.protocol['scale']}, channel {evidence.protocol['channel']}, border "
        f"{evidence.protocol['border']}, {evidence.protocol['resampler']}), by the rules "
        f"`{evidence.rules.name}`, at {evidence.created}.",
        "",
        "| rule | outcome | value | limit | why |",
        "|---|---|---|---|---|",
        *(_row(outcome) for outcome in evidence.outcomes),
        "",
        "PSNR in dB / SSIM of every picture:",
        "",
        "| picture | bicubic | champion | challenger |",
        "|---|---|---|---|",
        *(
            f"| {picture.name} | {_metrics(picture.bicubic)} | {_metrics(picture.champion)} "
            f"| {_metrics(picture.challenger)} |"
            for picture in evidence.pictures
        ),
        "",
        *_perception(evidence),
        f"Crops from left to right: {order}.",
        "",
        f"Smallest gain: {worst.name} ({worst.gain_db:+.2f} dB), at its smallest gain:",
        "",
        "![smallest gain](worst.png)",
        "",
        f"Largest gain: {best.name} ({best.gain_db:+.2f} dB), at its largest gain:",
        "",
        "![largest gain](best.png)",
        "",
        f"Challenger's bundle: `{evidence.challenger.bundle_id}`",
        *([f"Champion's bundle: `{champion.bundle_id}`"] if champion else []),
        "",
    ]
    return "\n".join(lines)


def _row(outcome: Outcome) -> str:
    value = "" if outcome.value is None else f"{outcome.value:.3f}"
    limit = "" if outcome.limit is None else f"{outcome.limit:.3f}"
    return f"| {outcome.rule} | {MARKS[outcome.passed]} | {value} | {limit} | {outcome.why} |"


def _metrics(metrics: PictureMetrics | None) -> str:
    return "" if metrics is None else f"{metrics.psnr:.2f} / {metrics.ssim:.4f}"


def _perception(evidence: Evidence) -> list[str]:
    """A table of every picture's perceptual metrics; empty where the rules need none."""
    if not any(picture.perception for picture in evidence.pictures):
        return []
    lines = [
        "Perceptual metrics, lower is better:",
        "",
        "| picture | metric | bicubic | champion | challenger |",
        "|---|---|---|---|---|",
    ]
    for picture in evidence.pictures:
        for name, values in picture.perception.items():
            cells = (
                f"{values[model]:.4f}" if model in values else ""
                for model in ("bicubic", "champion", "challenger")
            )
            lines.append(f"| {picture.name} | {name} | {' | '.join(cells)} |")
    return [*lines, ""]
