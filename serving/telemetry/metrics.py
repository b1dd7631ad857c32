"""The metrics of one app and their Prometheus registry."""

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
    """The metrics of one app, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # a `_created` series for each metric, which nothing here reads
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
        self.out_of_memory_retries = self._counter("sharpline_out_of_memory_retries_total")
        self.responses_aborted = self._counter("sharpline_responses_aborted_total")
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

    def add_callback_gauge(
        self, name: str, read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        """Add a gauge whose values, by label values, `read` returns at each scrape."""
        self.registry.register(_CallbackGauge(METRICS[name], read))

    def text(self) -> bytes:
        """The metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str) -> Counter:
        spec = METRICS[name]
        return Counter(name, spec.help, spec.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        spec = METRICS[name]
        return Histogram(name, spec.help, spec.labels, registry=self.registry, buckets=spec.buckets)


class _CallbackGauge(Collector):
    def __init__(
        self, spec: MetricSpec, read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        self._spec = spec
        self._read = read

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._spec.name, self._spec.help, labels=self._spec.labels)
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family
