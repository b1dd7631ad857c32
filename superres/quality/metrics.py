"""Metrics by name, with the reasons for those that are unavailable.

A metric is one module with a `QualityMetric`, listed below or announced by an installed package.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from superres.common.registry import EntryRegistry
from superres.quality.metric import (
    WEIGHTS_VARIABLE,
    Array,
    Metric,
    MetricUnavailable,
    QualityMetric,
    checked,
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
    if name in QUALITY_METRICS.built_in:
        return entry.load(weights)
    with QUALITY_METRICS.failures_of(name):
        metric = checked(entry.load(weights), name)

    def compute(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
        with QUALITY_METRICS.failures_of(name):
            return metric.compute(test_hwc, truth_hwc, protocol)

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
