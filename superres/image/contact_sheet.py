"""A contact sheet: rows of pictures side by side, each row with a title and lines of text."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from superres.image.codecs import Picture, write
from superres.image.pillow_modes import pillow

Pixels = npt.NDArray[np.uint8]

MARGIN, GAP = 24, 12
TEXT_WIDTH = 460
LINE, TITLE_LINE = 19, 30
WRAPPED_LINES = 4  # room for lines that become two
PAPER, INK, FAINT = (250, 250, 248), (28, 28, 30), (110, 110, 115)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """Pictures of one height, a caption under each, and a title with lines of text beside them."""

    pictures: tuple[Pixels, ...]
    captions: tuple[str, ...]
    title: str
    lines: tuple[str, ...]


def write_sheet(path: Path, title: str, subtitle: str, rows: Sequence[SheetRow]) -> None:
    """Draw the rows below each other and write the sheet; the suffix names the format."""
    write(path, Picture(rgb_hwc=_draw_sheet(title, subtitle, rows)), quality=92)


def _draw_sheet(title: str, subtitle: str, rows: Sequence[SheetRow]) -> Pixels:
    from PIL import ImageDraw, ImageFont

    large, bold, small = (ImageFont.load_default(size) for size in (24, 17, 14))
    widths = [sum(picture.shape[1] + GAP for picture in row.pictures) for row in rows]
    heights = [_row_height(row) for row in rows]
    top = MARGIN + 2 * TITLE_LINE + GAP
    size = (
        2 * MARGIN + max(widths) + TEXT_WIDTH,
        top + sum(heights) + GAP * (len(rows) - 1) + MARGIN,
    )
    sheet = pillow().new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=large)
    draw.text((MARGIN, MARGIN + TITLE_LINE), _plain(subtitle), fill=FAINT, font=small)
    for row, height in zip(rows, heights, strict=True):
        left = MARGIN
        for picture, caption in zip(row.pictures, row.captions, strict=True):
            sheet.paste(pillow().fromarray(picture), (left, top))
            draw.text((left, top + picture.shape[0] + 4), caption, fill=FAINT, font=small)
            left += picture.shape[1] + GAP
        left = MARGIN + max(widths) + GAP
        draw.text((left, top), _plain(row.title), fill=INK, font=bold)
        for number, line in enumerate(_wrapped(row.lines, draw, small)):
            position = (left, top + TITLE_LINE + number * LINE)
            draw.text(position, line, fill=INK if not line.startswith(" ") else FAINT, font=small)
        top += height + GAP
    return np.asarray(sheet)


def _row_height(row: SheetRow) -> int:
    pictures = max(picture.shape[0] for picture in row.pictures) + LINE + 6
    return max(pictures, TITLE_LINE + LINE * (len(row.lines) + WRAPPED_LINES))


def _wrapped(lines: Sequence[str], draw: Any, font: Any) -> list[str]:
    """Wrap lines at spaces to the width of the text column."""
    wrapped = []
    for line in lines:
        current = ""
        for word in _plain(line).split(" "):
            longer = f"{current} {word}" if current else word
            if current and draw.textlength(longer, font=font) > TEXT_WIDTH - GAP:
                wrapped.append(current)
                longer = f"    {word}"
            current = longer
        wrapped.append(current)
    return wrapped


def _plain(text: str) -> str:
    """Strip accents, which Pillow's default font lacks."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
