"""Enhances a held-out picture with the running server: time, scores and a comparison picture."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from superres.evaluation.evaluate import Pair, load_pairs
from superres.image.codecs import Picture, decode, encode, write
from superres.image.resize import imresize
from superres.quality import Protocol, Score, score

Array = NDArray[Any]

ENHANCE_TIMEOUT_SECONDS = 120.0
PANEL = 512  # pixels a side
COLUMNS = 2
LABEL_HEIGHT = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPicture:
    """The server's output for a held-out picture, with scores."""

    model: str
    bundle_id: str
    picture: str
    output: Picture
    bicubic: Score
    enhanced: Score
    seconds: float
    megapixels: float  # of the output


def held_out(dataset: Path, scale: int) -> tuple[Pair, Protocol]:
    """The first held-out pair of a dataset and the protocol of its scores."""
    pairs = load_pairs(dataset, scale)
    return next(iter(pairs.pairs)), pairs.protocol("y")


def enhance(server_url: str, model: str, pair: Pair, protocol: Protocol) -> ServedPicture:
    """Send the pair's low-resolution picture to POST /v1/enhance and score the output.

    Raises httpx.HTTPStatusError for an error response.
    """
    body = encode(pair.lr, "png")
    began = time.perf_counter()
    response = httpx.post(
        f"{server_url}/v1/enhance",
        params={"model": model, "format": "png"},
        content=body,
        headers={"Content-Type": "image/png"},
        timeout=ENHANCE_TIMEOUT_SECONDS,
    )
    seconds = time.perf_counter() - began
    response.raise_for_status()
    output = decode(response.content)
    enlarged = imresize(pair.lr.rgb_hwc, scale=protocol.scale)
    return ServedPicture(
        model=model,
        bundle_id=response.headers["Sharpline-Bundle"],
        picture=pair.name,
        output=output,
        bicubic=score(enlarged, pair.hr.rgb_hwc, protocol),
        enhanced=score(output.rgb_hwc, pair.hr.rgb_hwc, protocol),
        seconds=seconds,
        megapixels=output.pixels / 1e6,
    )


def write_comparison(path: Path, pair: Pair, scale: int, served: ServedPicture) -> None:
    """Write a PNG of four labelled panels of the most detailed square of the true picture."""
    size = min(PANEL, pair.hr.height, pair.hr.width)
    top, left = most_detailed_square(pair.hr.rgb_hwc, size)
    nearest = pair.lr.rgb_hwc.repeat(scale, axis=0).repeat(scale, axis=1)
    bicubic = imresize(pair.lr.rgb_hwc, scale=scale)
    panels = [
        (f"input, {pair.lr.width}x{pair.lr.height}", nearest),
        (f"bicubic  {served.bicubic.psnr:.2f} dB", bicubic),
        (f"{served.model}  {served.enhanced.psnr:.2f} dB", served.output.rgb_hwc),
        ("the true picture", pair.hr.rgb_hwc),
    ]
    cut = [(label, hwc[top : top + size, left : left + size]) for label, hwc in panels]
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, Picture(rgb_hwc=_sheet(cut, size)))


def most_detailed_square(rgb_hwc: Array, size: int) -> tuple[int, int]:
    """Top and left of the `size` x `size` square with the largest sum of absolute gradients.

    Chosen on the true picture alone, independently of any model's output.
    """
    grey = rgb_hwc.astype(np.float64).mean(axis=2)
    edges = np.zeros_like(grey)
    edges[1:] += np.abs(np.diff(grey, axis=0))
    edges[:, 1:] += np.abs(np.diff(grey, axis=1))
    sums = np.pad(edges, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    inside = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    top, left = np.unravel_index(np.argmax(inside), inside.shape)
    return int(top), int(left)


def _sheet(panels: Sequence[tuple[str, Array]], size: int) -> Array:
    rows = -(-len(panels) // COLUMNS)
    sheet = Image.new("RGB", (size * COLUMNS, (size + LABEL_HEIGHT) * rows), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for index, (label, hwc) in enumerate(panels):
        left, top = index % COLUMNS * size, index // COLUMNS * (size + LABEL_HEIGHT)
        sheet.paste(Image.fromarray(hwc), (left, top + LABEL_HEIGHT))
        pen.text((left + 8, top + 6), label, fill="black", font=font)
    return np.asarray(sheet)
