"""Metrics by name, with the reasons for those that are unavailable.

A metric is one module with a `QualityMetric`, listed below or announced by an installed package.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

from superres.common.registry import EntryRegistry
from superres.quality.metric import (
    WEIGHTS_VARIABLE,
    Array,
    Metric,
    MetricUnavailable,
    NotMeasurable,
    QualityMetric,
)
from superres.quality.protocol import Protocol

QUALITY_METRICS = EntryRegistry(
    group="sharpline.quality_metrics",
    noun="metric",
    entry_type=QualityMetric,
    built_in={
        name: f"superres.quality.{name}:METRIC"
        for name in ("psnr", "ssim", "ms_ssim", "lpips", "lpips_vgg", "dists", "niqe")
    },
)
DEFAULT_METRICS = ("psnr", "ssim", "ms_ssim", "lpips", "dists", "niqe")


def weights_folder(folder: Path | None = None) -> Path | None:
    """The folder with the weights of metrics: `folder`, else WEIGHTS_VARIABLE's."""
    variable = os.environ.get(WEIGHTS_VARIABLE)
    return folder or (Path(variable).expanduser() if variable else None)


def load_metric(name: str, weights: Path | None = None) -> Metric:
    """A metric by name, with the weights in a folder (see `weights_folder`).

    Raises MetricUnavailable saying what is missing, UsageError for an unknown name.
    """
    entry = QUALITY_METRICS.get(name)
    return entry.load(weights) if name in QUALITY_METRICS.built_in else _checked(entry, weights)


def _checked(entry: QualityMetric, weights: Path | None) -> Metric:
    """A plug-in's metric. Itself and each of its values are checked; errors name the plug-in."""
    with QUALITY_METRICS.failures_of(entry.name):
        metric = cast("object", entry.load(weights))  # the annotation is a plug-in's promise
        if not isinstance(metric, Metric):
            raise TypeError(f"`load` returned {type(metric).__name__}, not Metric")
        if metric.name != entry.name:
            raise ValueError(f"`load` returned the metric {metric.name!r}")

    def compute(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
        with QUALITY_METRICS.failures_of(entry.name):
            value = float(metric.compute(test_hwc, truth_hwc, protocol))
        if math.isnan(value):
            raise NotMeasurable(f"{metric.title} is not a number for this picture")
        return value

    return replace(metric, compute=compute)


def load_metrics(
    names: Iterable[str], weights: Path | None = None
) -> tuple[tuple[Metric, ...], dict[str, str]]:
    """The available metrics, and by name the reasons why the others are unavailable."""
    ready: list[Metric] = []
    refused: dict[str, str] = {}
    for name in names:
        try:
            ready.append(load_metric(name, weights))
        except MetricUnavailable as error:
            refused[name] = str(error)
    return tuple(ready), refused
