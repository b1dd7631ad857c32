"""A scorecard as JSON."""

import math

from superres.evaluation.scorecard import MetricPair, MetricSummary, PictureCard, Scorecard
from superres.quality.intervals import Interval


def json_of(card: Scorecard) -> dict[str, object]:
    """The scorecard as one JSON object; the PSNR of equal pictures is null."""
    return {
        "model": card.bundle.info.name,
        "bundle": card.bundle.id,
        "inference": card.mode,
        **_ours_and_bicubic(_means(card.summary("psnr")), _means(card.summary("ssim"))),
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
    return {
        "name": picture.name,
        **_ours_and_bicubic(picture.metrics.get("psnr"), picture.metrics.get("ssim")),
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


def _means(summary: MetricSummary | None) -> MetricPair | None:
    return None if summary is None else MetricPair(ours=summary.mean, bicubic=summary.bicubic)


def _ours_and_bicubic(psnr: MetricPair | None, ssim: MetricPair | None) -> dict[str, object]:
    """PSNR and SSIM, and those of bicubic; null where a metric is missing."""
    pairs = {"psnr": psnr, "ssim": ssim}
    return {
        **{name: pair and finite(pair.ours) for name, pair in pairs.items()},
        "bicubic": {name: pair and finite(pair.bicubic) for name, pair in pairs.items()},
    }


def _interval_json(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [finite(interval.lower), finite(interval.upper)]


def finite(value: float | None) -> float | None:
    """None, JSON's null, for an infinite value (the PSNR of equal pictures)."""
    return value if value is not None and math.isfinite(value) else None
