"""Pixel differences of serving: its configuration against float32 on whole pictures.

On a folder of high-resolution originals (such as Set5): the share of values within one grey level,
and the PSNR of both on the Y channel. The last line is the result as JSON.

    python bench/serving_quality.py models/compact_x4 REFERENCE_DATA/data/set5/HR
"""

import argparse
from pathlib import Path
from statistics import fmean

import numpy as np

from superres.common.console import emit, say
from superres.image.codecs import Picture, list_pictures, read
from superres.image.resize import imresize
from superres.model.backends import load_backend
from superres.model.bundle import load_bundle
from superres.model.upscaler import Upscaler


def main() -> None:
    arguments = _arguments()
    bundle = load_bundle(arguments.bundle)
    scale = bundle.info.scale
    served = Upscaler(bundle, load_backend(bundle))  # the defaults of `sharpline serve`
    canonical = Upscaler(bundle, load_backend(bundle, backend="torch", precision="fp32"))
    within, gaps = [], []
    for path in list_pictures(arguments.pictures):
        hr_hwc = read(path).rgb_hwc
        height, width = (side // scale * scale for side in hr_hwc.shape[:2])
        hr_hwc = hr_hwc[:height, :width]
        lr = Picture(rgb_hwc=imresize(hr_hwc, scale=1 / scale))
        ours_hwc, whole_hwc = served.upscale(lr).rgb_hwc, canonical.whole(lr).rgb_hwc
        levels = np.abs(ours_hwc.astype(np.int16) - whole_hwc)
        within.append(float(np.mean(levels <= 1)))
        gaps.append(psnr_y(whole_hwc, hr_hwc, scale) - psnr_y(ours_hwc, hr_hwc, scale))
        say(f"{path.stem}: {100 * within[-1]:.3f} % within a level, {gaps[-1]:+.4f} dB lost")
    emit(
        {
            "model": bundle.info.name,
            "backend": served.backend.name,
            "precision": served.backend.precision,
            "pictures": len(within),
            "within_one_level_percent": round(100 * fmean(within), 4),
            "psnr_lost_db": round(fmean(gaps), 5),
        }
    )


def psnr_y(output_hwc: np.ndarray, hr_hwc: np.ndarray, border: int) -> float:
    """PSNR of ITU-R BT.601 luma, without a border of `border` pixels."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    inner = (slice(border, -border), slice(border, -border))
    error = (output_hwc.astype(np.float64) - hr_hwc) @ weights
    return float(10 * np.log10(255**2 / np.mean(error[inner] ** 2)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, help="a folder of high-resolution originals")
    return parser.parse_args()


if __name__ == "__main__":
    main()
