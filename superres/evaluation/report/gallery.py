"""The report's examples: crops of the worst and the best pictures, and the largest seam."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superres.common.files import write_bytes
from superres.evaluation.evaluate import EvaluatedPair
from superres.evaluation.report.examples import ReportExample, Seams
from superres.evaluation.report.page import page
from superres.evaluation.scorecard import PictureReport, Scorecard
from superres.image.crop import crop_corner
from superres.quality import Protocol, squared_error
from superres.quality.blocks import Grid

Array = NDArray[Any]

SHOWN = 3  # worst and best pictures each
CROP_PIXELS = 160
BLOCK_PIXELS = 32


class ExampleGallery:
    """Collects examples while a scorecard is made; keeps crops and one map, no whole pictures."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._worst: list[ReportExample] = []
        self._best: list[ReportExample] = []
        self._seams: Seams | None = None

    def add(self, report: PictureReport) -> None:
        """Keep this picture's crops if it is among the worst or the best so far."""
        self._worst.append(self._example(report, best=False))
        self._worst = sorted(self._worst, key=_gain)[:SHOWN]
        self._best.append(self._example(report, best=True))
        self._best = sorted(self._best, key=_gain, reverse=True)[:SHOWN]
        if report.comparison is None:
            return
        levels_hw = report.comparison.levels_hw
        if self._seams is None or levels_hw.max() > self._seams.levels_hw.max():
            self._seams = Seams(name=report.card.name, levels_hw=levels_hw)

    def write(self, folder: Path, card: Scorecard) -> Path:
        """Write index.html into a folder and return its path."""
        # With few pictures, do not show one as both worst and best.
        half = len(card.pictures) // 2
        worst = self._worst[: max(1, len(card.pictures) - half)]
        shown = {example.card.name for example in worst}
        best = [example for example in self._best if example.card.name not in shown]
        path = folder / "index.html"
        write_bytes(path, page(card, worst, best, self._seams).encode())
        return path

    def _example(self, report: PictureReport, *, best: bool) -> ReportExample:
        evaluated, scale = report.evaluated, self._protocol.scale
        top, left = crop_position(evaluated, self._protocol, best=best)

        def crop(rgb_hwc: Array) -> Array:
            # A copy, so that the crop does not keep the whole picture in memory.
            return rgb_hwc[top : top + CROP_PIXELS, left : left + CROP_PIXELS].copy()

        repeated_hwc = evaluated.pair.lr.rgb_hwc.repeat(scale, axis=0).repeat(scale, axis=1)
        return ReportExample(
            card=report.card,
            input_hwc=crop(repeated_hwc),
            bicubic_hwc=crop(evaluated.bicubic_hwc),
            model_hwc=crop(evaluated.rgb_hwc),
            truth_hwc=crop(evaluated.pair.hr.rgb_hwc),
        )


def crop_position(evaluated: EvaluatedPair, protocol: Protocol, *, best: bool) -> tuple[int, int]:
    """Top and left of the crop where the model gains most over bicubic, or least."""
    truth_hwc = evaluated.pair.hr.rgb_hwc
    ours = squared_error(evaluated.rgb_hwc, truth_hwc, protocol)
    theirs = squared_error(evaluated.bicubic_hwc, truth_hwc, protocol)
    height, width = ours.shape
    grid = Grid.over(height, width, BLOCK_PIXELS)
    gains = grid.sums(theirs) - grid.sums(ours)
    row, column = grid.centre(int(np.argmax(gains) if best else np.argmin(gains)))
    centre = (row + protocol.border, column + protocol.border)
    return crop_corner(truth_hwc.shape[0], truth_hwc.shape[1], centre, CROP_PIXELS)


def _gain(example: ReportExample) -> float:
    return example.card.psnr_gain
