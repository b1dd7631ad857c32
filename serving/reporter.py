"""Writes the events of the server's components into the metrics."""

import sys
from collections.abc import Callable, Mapping

from serving.batching.scheduler import Scheduler
from serving.enhance.admission import Admission
from serving.enhance.costs import CostModel
from serving.jobs.jobs import Jobs
from serving.models.loaded import LoadedModel
from serving.models.reload import Models, ModelVersion
from serving.telemetry.drift import LiveWindow
from serving.telemetry.metrics import Metrics

LabelledValues = Mapping[tuple[str, ...], float]


class Reporter:
    """The observer of every component (see the `*Observer` protocols); updates the metrics."""

    def __init__(self, metrics: Metrics, costs: CostModel) -> None:
        self._metrics = metrics
        self._costs = costs

    def stage_done(self, stage: str, seconds: float) -> None:
        self._metrics.stage_duration.labels(stage).observe(seconds)

    def picture_done(
        self,
        model_version: ModelVersion,
        *,
        waste_ratio: float,
        input_pixels: int,
        output_pixels: int,
        seconds: float,
    ) -> None:
        self._metrics.tile_waste.labels(model_version.name).observe(waste_ratio)
        self._metrics.pixels.labels("in").inc(input_pixels)
        self._metrics.pixels.labels("out").inc(output_pixels)
        self._metrics.version_pictures.labels(
            model_version.name, model_version.version, model_version.role
        ).inc()
        self._metrics.version_duration.labels(model_version.name, model_version.version).observe(
            seconds
        )

    def picture_failed(self, model_version: ModelVersion) -> None:
        self._metrics.version_failures.labels(
            model_version.name, model_version.version, model_version.role
        ).inc()

    def inconsistent(self, model_version: ModelVersion, regions: int) -> None:
        self._metrics.inconsistent_regions.labels(model_version.name, model_version.version).inc(
            regions
        )

    def response_aborted(self, reason: str) -> None:
        self._metrics.responses_aborted.labels(reason).inc()

    def batch_done(self, model: str, *, fill_ratio: float, pixels: int, seconds: float) -> None:
        self._metrics.batch_fill.labels(model).observe(fill_ratio)
        self._metrics.batch_duration.labels(model).observe(seconds)
        self._costs.learn(model, pixels, seconds)

    def batch_failed(self, model: str) -> None:
        self._metrics.batch_failures.labels(model).inc()

    def out_of_memory(self, model: str) -> None:
        self._metrics.out_of_memory_retries.labels(model).inc()

    def shadow_done(
        self, name: str, version: str, outcome: str, levels: float | None = None
    ) -> None:
        self._metrics.shadow_tiles.labels(name, version, outcome).inc()
        if levels is not None:
            self._metrics.shadow_difference.labels(name, version).observe(levels)

    def model_desired(self, model: str) -> None:
        # Start at 0: Prometheus sees no increase in a counter that first appears at 1.
        for counter in (
            self._metrics.model_swaps,
            self._metrics.model_refusals,
            self._metrics.batch_failures,
            self._metrics.out_of_memory_retries,
        ):
            counter.labels(model)

    def model_verified(self, model: str, *, pixels: int, seconds: float) -> None:
        self._costs.learn(model, pixels, seconds)

    def model_swapped(self, model: str) -> None:
        self._metrics.model_swaps.labels(model).inc()

    def model_refused(self, model: str) -> None:
        self._metrics.model_refusals.labels(model).inc()


def register_gauges(
    metrics: Metrics,
    *,
    scheduler: Scheduler,
    admission: Admission,
    models: Models,
    window: LiveWindow,
    costs: CostModel,
    jobs: Jobs,
) -> None:
    """Register the gauges whose values are read from these components at each scrape."""
    readers: dict[str, Callable[[], LabelledValues]] = {
        "sharpline_pictures_in_flight": lambda: {(): admission.in_flight},
        "sharpline_queue_tiles": lambda: _queued(scheduler, models),
        "sharpline_model_info": lambda: {
            (model_version.name, model_version.version, model_version.model.bundle.id): 1
            for model_version in models.champions.values()
        },
        "sharpline_model_seconds_per_megapixel": lambda: {
            (model,): 1e6 * seconds for model, seconds in costs.per_pixel().items()
        },
        "sharpline_device_memory_bytes": device_memory,
        "sharpline_input_drift": lambda: window.drift(
            {
                name: model_version.model.bundle.info.training.reference
                for name, model_version in models.champions.items()
            }
        ),
        "sharpline_drift_pictures": lambda: _by_model(window.pictures()),
        "sharpline_consistency_db": lambda: _by_model(window.consistency()),
        "sharpline_jobs": jobs.counts,
    }
    for name, read in readers.items():
        metrics.add_callback_gauge(name, read)


def device_memory() -> LabelledValues:
    """Memory of every GPU in bytes, by device and kind; empty unless torch uses CUDA already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    memory: dict[tuple[str, ...], float] = {}
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        memory[f"cuda:{number}", "total"] = total
        memory[f"cuda:{number}", "used"] = total - free
    return memory


def _queued(scheduler: Scheduler, models: Models) -> LabelledValues:
    """Queued tiles by model name; tiles of a replaced version count under the same name."""
    queued = {(name,): 0.0 for name in models.champions}
    for model, tiles in scheduler.queued_tiles().items():
        if isinstance(model, LoadedModel):
            queued[(model.name,)] = queued.get((model.name,), 0.0) + tiles
    return queued


def _by_model(values: Mapping[str, float]) -> LabelledValues:
    return {(model,): value for model, value in values.items()}
