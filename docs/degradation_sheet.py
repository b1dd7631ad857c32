"""Draw docs/degradations.jpg: one picture under every degradation, each labelled with its kind.

The picture is the astronaut of scikit-image (NASA, public domain).

    python docs/degradation_sheet.py --out docs/degradations.jpg
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from superres.degrade import DEGRADATIONS, degrade
from superres.image.codecs import read
from training.data.sources.resolve import sample_pictures

SIDE, COLUMNS, BAR = 232, 5, 16
# Chosen to show every kind of damage.
SEEDS = {
    "bicubic": [0],
    "bicubic_jpeg": [5],
    "bsrgan": [0, 3, 6],
    "real_esrgan": [1, 3, 7],
    "jpeg": [3, 8],
    "defocus": [4],
    "motion": [2, 5],
    "gaussian_noise": [2],
    "poisson_noise": [2],
    "iso_noise": [5],
    "old_photo": [3, 4, 8, 21],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    entry = next(picture for picture in sample_pictures() if picture.name == "astronaut")
    hr_hwc_u8 = np.ascontiguousarray(read(entry.path).rgb_hwc[: SIDE * 2, 20 : 20 + SIDE * 2])
    tiles = [
        tile
        for kind in DEGRADATIONS.built_in
        for seed in SEEDS[kind]
        for tile in _tiles(hr_hwc_u8, kind, seed)
    ]
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + BAR)))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, COLUMNS)
        sheet.paste(tile, (column * SIDE, row * (SIDE + BAR)))
    sheet.save(out, quality=78)


def _tiles(hr_hwc_u8: np.ndarray, kind: str, seed: int) -> list[Image.Image]:
    """The degraded picture and, if any, its damage mask."""
    degraded = degrade(hr_hwc_u8, kind=kind, scale=2, seed=seed)
    tiles = [_labelled(degraded.lr_hwc_u8, f"{kind}, seed {seed}")]
    if degraded.damage_hw_u8 is not None:
        mask_hwc_u8 = np.repeat(degraded.damage_hw_u8[..., None], 3, axis=-1)
        tiles.append(_labelled(mask_hwc_u8, f"{kind}, seed {seed}: mask"))
    return tiles


def _labelled(rgb_hwc_u8: np.ndarray, label: str) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE + BAR), "white")
    tile.paste(Image.fromarray(rgb_hwc_u8), (0, BAR))
    ImageDraw.Draw(tile).text((4, 2), label, fill="black")
    return tile


if __name__ == "__main__":
    main()
