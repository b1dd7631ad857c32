"""A scorecard for scripts."""

import math

from superres.evaluation.scorecard import MetricSummary, PictureCard, Scorecard
from superres.quality.intervals import Interval


def json_of(card: Scorecard) -> dict[str, object]:
    """The scorecard as one JSON object; null stands for the PSNR of equal pictures."""
    psnr, ssim = card.figure("psnr"), card.figure("ssim")
    return {
        "model": card.bundle.info.name,
        "bundle": card.bundle.id,
        "way": card.way,
        "psnr": None if psnr is None else finite(psnr.mean),
        "ssim": None if ssim is None else finite(ssim.mean),
        "bicubic": {
            "psnr": None if psnr is None else finite(psnr.bicubic),
            "ssim": None if ssim is None else finite(ssim.bicubic),
        },
        "protocol": card.protocol.as_dict(),
        "figures": {figure.metric.name: _figure_json(figure) for figure in card.figures},
        "refused": dict(card.refused),
        "seam_levels": card.seam_levels,
        "pictures": [_picture_json(picture) for picture in card.pictures],
    }


def _figure_json(figure: MetricSummary) -> dict[str, object]:
    return {
        "mean": finite(figure.mean),
        "interval": _interval_json(figure.interval),
        "bicubic": finite(figure.bicubic),
        "gain": finite(figure.gain),
        "gain_interval": _interval_json(figure.gain_interval),
        "better": figure.metric.better,
        "variant": figure.metric.variant,
        "protocol": figure.protocol.as_dict(),
    }


def _picture_json(picture: PictureCard) -> dict[str, object]:
    psnr, ssim = picture.figures.get("psnr"), picture.figures.get("ssim")
    return {
        "name": picture.name,
        "psnr": None if psnr is None else finite(psnr.ours),
        "ssim": None if ssim is None else finite(ssim.ours),
        "bicubic": {
            "psnr": None if psnr is None else finite(psnr.bicubic),
            "ssim": None if ssim is None else finite(ssim.bicubic),
        },
        "psnr_interval": _interval_json(picture.psnr_interval),
        "psnr_gain_interval": _interval_json(picture.psnr_gain_interval),
        "figures": {
            name: {"model": finite(pair.ours), "bicubic": finite(pair.bicubic)}
            for name, pair in picture.figures.items()
        },
        "refused": dict(picture.refused),
        "seam_levels": picture.seam_levels,
        "seam_psnr_change": finite(picture.seam_psnr_change),
    }


def _interval_json(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [finite(interval.lower), finite(interval.upper)]


def finite(value: float | None) -> float | None:
    """JSON has no infinity, which is the PSNR of equal pictures: null stands for it."""
    return value if value is not None and math.isfinite(value) else None
