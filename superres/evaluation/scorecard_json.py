"""A scorecard as JSON."""

import math

from superres.evaluation.scorecard import MetricSummary, PictureCard, Scorecard
from superres.quality.intervals import Interval


def json_of(card: Scorecard) -> dict[str, object]:
    """The scorecard as one JSON object; the PSNR of equal pictures is null."""
    psnr, ssim = card.summary("psnr"), card.summary("ssim")
    return {
        "model": card.bundle.info.name,
        "bundle": card.bundle.id,
        "inference": card.mode,
        "psnr": None if psnr is None else finite(psnr.mean),
        "ssim": None if ssim is None else finite(ssim.mean),
        "bicubic": {
            "psnr": None if psnr is None else finite(psnr.bicubic),
            "ssim": None if ssim is None else finite(ssim.bicubic),
        },
        "protocol": card.protocol.as_dict(),
        "metrics": {summary.metric.name: _summary_json(summary) for summary in card.summaries},
        "refused": dict(card.refused),
        "seam_levels": card.seam_levels,
        "pictures": [_picture_json(picture) for picture in card.pictures],
    }


def _summary_json(summary: MetricSummary) -> dict[str, object]:
    return {
        "mean": finite(summary.mean),
        "interval": _interval_json(summary.interval),
        "bicubic": finite(summary.bicubic),
        "gain": finite(summary.gain),
        "gain_interval": _interval_json(summary.gain_interval),
        "better": summary.metric.better,
        "variant": summary.metric.variant,
        "protocol": summary.protocol.as_dict(),
    }


def _picture_json(picture: PictureCard) -> dict[str, object]:
    psnr, ssim = picture.metrics.get("psnr"), picture.metrics.get("ssim")
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
        "metrics": {
            name: {"model": finite(pair.ours), "bicubic": finite(pair.bicubic)}
            for name, pair in picture.metrics.items()
        },
        "refused": dict(picture.refused),
        "seam_levels": picture.seam_levels,
        "seam_psnr_change": finite(picture.seam_psnr_change),
    }


def _interval_json(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [finite(interval.lower), finite(interval.upper)]


def finite(value: float | None) -> float | None:
    """None, JSON's null, for an infinite value (the PSNR of equal pictures)."""
    return value if value is not None and math.isfinite(value) else None
