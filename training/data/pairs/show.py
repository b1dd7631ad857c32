"""Draws a contact sheet of a dataset: pairs side by side, with their degradations."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes
from superres.dataset.manifest import ManifestRow, read_info, read_manifest
from superres.image.codecs import read
from superres.image.contact_sheet import SheetRow, write_sheet
from training.data.sources.picture import UNSTATED

CROP_SIDE = 288  # pixels a side of the crop that is shown, at HR size
MAX_LINES = 14

Pixels = npt.NDArray[np.uint8]


def draw_contact_sheet(dataset: Path, out: Path, *, count: int, split: str) -> int:
    """Draw up to `count` pairs of a split into one picture; return how many.

    Each row shows the same crop of the HR, of the LR with its pixels repeated to HR size, and of
    the mask, if any. The choice of pairs depends only on the dataset's id. Raises SharplineError
    where the split is empty.
    """
    info = read_info(dataset)
    rows = [row for row in read_manifest(dataset) if row.split == split]
    if not rows:
        raise SharplineError(f"{dataset} has no pairs in {split}; choose another --split")
    chosen = random.Random(sha256_bytes(info.id.encode())).sample(rows, min(count, len(rows)))
    sheet_rows = [
        _sheet_row(dataset, row) for row in sorted(chosen, key=lambda row: (row.name, row.draw))
    ]
    counts = ", ".join(f"{number} {name}" for name, number in info.splits.items())
    subtitle = f"{info.source}  ·  x{info.scale}  ·  {info.degradation}  ·  {counts} pairs"
    write_sheet(out, f"Dataset {info.id}, {split}", subtitle, sheet_rows)
    return len(sheet_rows)


def _sheet_row(dataset: Path, row: ManifestRow) -> SheetRow:
    hr_hwc, lr_hwc = (read(dataset / path).rgb_hwc for path in (row.hr_path, row.lr_path))
    side = min(CROP_SIDE, *hr_hwc.shape[:2]) // row.scale
    top, left = _highest_contrast(lr_hwc, side)
    pictures = [_crop(hr_hwc, top * row.scale, left * row.scale, side * row.scale)]
    captions = [f"HR {row.width}x{row.height}"]
    for caption, path in (("LR", row.lr_path), ("mask", row.mask_path)):
        if path:
            hwc = lr_hwc if caption == "LR" else read(dataset / path).rgb_hwc
            crop = _crop(hwc, top, left, side)
            pictures.append(crop.repeat(row.scale, axis=0).repeat(row.scale, axis=1))
            size = f" {hwc.shape[1]}x{hwc.shape[0]}, pixels repeated" if row.scale > 1 else ""
            captions.append(f"{caption}{size if caption == 'LR' else ''}")
    draw = f", draw {row.draw}" if row.draw > 1 else ""
    return SheetRow(
        pictures=tuple(pictures),
        captions=tuple(captions),
        title=f"{row.name}{draw}",
        lines=tuple(_lines(row)),
    )


def _highest_contrast(lr_hwc: Pixels, side: int) -> tuple[int, int]:
    """Top and left of the crop with the highest contrast, on a coarse grid."""
    height, width = lr_hwc.shape[:2]
    step = max(1, side // 2)
    corners = [
        (top, left)
        for top in range(0, height - side + 1, step)
        for left in range(0, width - side + 1, step)
    ]
    return max(corners, key=lambda corner: float(_crop(lr_hwc, *corner, side).std()))


def _crop(hwc: Pixels, top: int, left: int, side: int) -> Pixels:
    return hwc[top : top + side, left : left + side]


def _lines(row: ManifestRow) -> Sequence[str]:
    """The degradation of the LR picture, as short lines of text."""
    parameters: dict[str, Any] = json.loads(row.parameters)
    kind = parameters.pop("kind", row.degradation)
    steps = parameters.pop("steps", [])
    lines = [f"{kind}, seed {row.seed}"]
    lines += [f"{name} {_value(value)}" for name, value in _readable(parameters)]
    for number, step in enumerate(steps, start=1):
        name = step.pop("step").replace("noise", " noise")
        if name == "resize":
            name = f"resize to {step.pop('width')}x{step.pop('height')}"
        values = ", ".join(f"{key} {_value(value)}" for key, value in _readable(step))
        lines.append(f"{number}. {name}: {values}")
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES} more"]
    author = "" if row.author == UNSTATED else f", {row.author}"
    return [*lines, f"{row.source}{author}: {row.licence}"]


def _readable(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values with readable names, without seeds, tables and zeros (which have no effect)."""
    for name, value in values.items():
        if name != "seed" and value and not isinstance(value, list | dict):
            yield name.replace("_", " "), value


def _value(value: Any) -> str:
    if value is True:
        return "yes"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
