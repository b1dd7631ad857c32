"""The metrics of one app, in a registry of its own."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from serving.telemetry.metrics_table import METRICS, MetricSpec


class Metrics:
    """The figures of one app and the registry that holds them."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series beside each figure, which nothing here reads
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._counter("sharpline_requests_total")
        self.problems = self._counter("sharpline_problems_total")
        self.request_duration = self._histogram("sharpline_request_duration_seconds")
        self.stage_duration = self._histogram("sharpline_stage_duration_seconds")
        self.batch_duration = self._histogram("sharpline_batch_duration_seconds")
        self.batch_fill = self._histogram("sharpline_batch_fill_ratio")
        self.batch_failures = self._counter("sharpline_batch_failures_total")
        self.memory_retries = self._counter("sharpline_memory_retries_total")
        self.answers_cut = self._counter("sharpline_answers_cut_total")
        self.inconsistent_regions = self._counter("sharpline_inconsistent_regions_total")
        self.version_pictures = self._counter("sharpline_version_pictures_total")
        self.version_failures = self._counter("sharpline_version_failures_total")
        self.version_duration = self._histogram("sharpline_version_duration_seconds")
        self.shadow_tiles = self._counter("sharpline_shadow_tiles_total")
        self.shadow_difference = self._histogram("sharpline_shadow_difference_levels")
        self.tile_waste = self._histogram("sharpline_tile_waste_ratio")
        self.pixels = self._counter("sharpline_pixels_total")
        self.model_swaps = self._counter("sharpline_model_swaps_total")
        self.model_refusals = self._counter("sharpline_model_refusals_total")

    def read_when_scraped(
        self, name: str, read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        """Show what `read` returns at each scrape, by label values."""
        self.registry.register(_WhenScraped(METRICS[name], read))

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str) -> Counter:
        figure = METRICS[name]
        return Counter(name, figure.help, figure.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        figure = METRICS[name]
        return Histogram(
            name, figure.help, figure.labels, registry=self.registry, buckets=figure.buckets
        )


class _WhenScraped(Collector):
    def __init__(
        self, figure: MetricSpec, read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        self._figure = figure
        self._read = read

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._figure.name, self._figure.help, labels=self._figure.labels)
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family
