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
from superres.evaluation.evaluate import pairs_from_folder
from superres.model.backends import load_backend
from superres.model.bundle import load_bundle
from superres.model.upscaler import Upscaler
from superres.quality import psnr


def main() -> None:
    arguments = _arguments()
    bundle = load_bundle(arguments.bundle)
    scale = bundle.info.scale
    served = Upscaler(bundle, load_backend(bundle))  # the defaults of `sharpline serve`
    canonical = Upscaler(bundle, load_backend(bundle, backend="torch", precision="fp32"))
    within, gaps = [], []
    held_out = pairs_from_folder(arguments.pictures, scale)
    protocol = held_out.protocol("y")
    for pair in held_out.pairs:
        ours_hwc, whole_hwc = served.upscale(pair.lr).rgb_hwc, canonical.whole(pair.lr).rgb_hwc
        levels = np.abs(ours_hwc.astype(np.int16) - whole_hwc)
        within.append(float(np.mean(levels <= 1)))
        hr_hwc = pair.hr.rgb_hwc
        gaps.append(psnr(whole_hwc, hr_hwc, protocol) - psnr(ours_hwc, hr_hwc, protocol))
        say(f"{pair.name}: {100 * within[-1]:.3f} % within a level, {gaps[-1]:+.4f} dB lost")
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, help="a folder of high-resolution originals")
    return parser.parse_args()


if __name__ == "__main__":
    main()
