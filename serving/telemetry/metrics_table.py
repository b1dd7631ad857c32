"""Every metric of the server in one table, from which docs/metrics.md is generated.

Units are base units. Labels have low cardinality: model names are labels because the operator
chooses them; values that clients send are not.
"""

from dataclasses import dataclass

from superres.common.console import show

DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STAGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEVELS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
WASTE_RATIOS = (1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric: name, kind, help text and labels; `buckets` of a histogram."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


TABLE = (
    MetricSpec(
        name="sharpline_requests_total",
        kind="counter",
        labels=("route", "status", "model"),
        help="Requests answered; model is empty if none was selected",
    ),
    MetricSpec(
        name="sharpline_problems_total",
        kind="counter",
        labels=("problem",),
        help="Requests refused or failed, by problem label",
    ),
    MetricSpec(
        name="sharpline_request_duration_seconds",
        kind="histogram",
        buckets=DURATIONS,
        labels=("route", "model"),
        help="From the first byte of the request to the last byte of the response",
    ),
    MetricSpec(
        name="sharpline_stage_duration_seconds",
        kind="histogram",
        buckets=STAGES,
        labels=("stage",),
        help="One stage of a picture: read, select (for auto), decode, network (queueing "
        "included), check, encode",
    ),
    MetricSpec(
        name="sharpline_batch_duration_seconds",
        kind="histogram",
        buckets=STAGES,
        labels=("model",),
        help="One batch on the device",
    ),
    MetricSpec(
        name="sharpline_pictures_in_flight",
        kind="gauge",
        help="Pictures admitted and not yet answered completely",
    ),
    MetricSpec(
        name="sharpline_queue_tiles",
        kind="gauge",
        labels=("model",),
        help="Tiles queued for a device",
    ),
    MetricSpec(
        name="sharpline_batch_fill_ratio",
        kind="histogram",
        buckets=RATIOS,
        labels=("model",),
        help="Tiles in a batch, divided by the tiles of a full batch",
    ),
    MetricSpec(
        name="sharpline_tile_waste_ratio",
        kind="histogram",
        buckets=WASTE_RATIOS,
        labels=("model",),
        help="Pixels given to the network, divided by the pixels of the picture",
    ),
    MetricSpec(
        name="sharpline_pixels_total",
        kind="counter",
        labels=("direction",),
        help="Pixels of inputs and answers",
    ),
    MetricSpec(
        name="sharpline_model_info",
        kind="gauge",
        labels=("model", "version", "bundle"),
        help="1 for each served model",
    ),
    MetricSpec(
        name="sharpline_model_swaps_total",
        kind="counter",
        labels=("model",),
        help="Swaps to a newly loaded model",
    ),
    MetricSpec(
        name="sharpline_model_refusals_total",
        kind="counter",
        labels=("model",),
        help="New models refused while the old one stayed in service",
    ),
    MetricSpec(
        name="sharpline_batch_failures_total",
        kind="counter",
        labels=("model",),
        help="Batches that failed on a device",
    ),
    MetricSpec(
        name="sharpline_out_of_memory_retries_total",
        kind="counter",
        labels=("model",),
        help="Batches too large for the device's memory, run again in smaller parts",
    ),
    MetricSpec(
        name="sharpline_responses_aborted_total",
        kind="counter",
        labels=("reason",),
        help="Responses aborted after their first byte, by problem label or as slow-client",
    ),
    MetricSpec(
        name="sharpline_inconsistent_regions_total",
        kind="counter",
        labels=("model", "version"),
        help="Regions of answers that, downscaled, do not match their input",
    ),
    MetricSpec(
        name="sharpline_version_pictures_total",
        kind="counter",
        labels=("model", "version", "role"),
        help="Pictures answered, by version; role is champion or canary",
    ),
    MetricSpec(
        name="sharpline_version_failures_total",
        kind="counter",
        labels=("model", "version", "role"),
        help="Pictures that failed while being enhanced, by version; role is champion or canary",
    ),
    MetricSpec(
        name="sharpline_version_duration_seconds",
        kind="histogram",
        buckets=DURATIONS,
        labels=("model", "version"),
        help="From the first tile of a picture to the last chunk of its answer, by version",
    ),
    MetricSpec(
        name="sharpline_shadow_tiles_total",
        kind="counter",
        labels=("model", "version", "outcome"),
        help="Tiles for the comparison of a shadow with its champion; outcome is compared, "
        "inconsistent (does not match its input), failed or skipped",
    ),
    MetricSpec(
        name="sharpline_shadow_difference_levels",
        kind="histogram",
        buckets=LEVELS,
        labels=("model", "version"),
        help="Mean absolute difference between a shadow's tile and its champion's, in grey levels "
        "of 255",
    ),
    MetricSpec(
        name="sharpline_model_seconds_per_megapixel",
        kind="gauge",
        labels=("model",),
        help="Device time of a million low-resolution pixels, averaged over recent batches",
    ),
    MetricSpec(
        name="sharpline_device_memory_bytes",
        kind="gauge",
        labels=("device", "kind"),
        help="Memory of each GPU: total, and used by all of its processes; absent without a GPU",
    ),
    MetricSpec(
        name="sharpline_input_drift",
        kind="gauge",
        labels=("feature", "model"),
        help="Difference between the means of live and training pictures, in standard deviations "
        "of the training pictures",
    ),
    MetricSpec(
        name="sharpline_drift_pictures",
        kind="gauge",
        labels=("model",),
        help="Live pictures in the drift window",
    ),
    MetricSpec(
        name="sharpline_consistency_db",
        kind="gauge",
        labels=("model",),
        help="Mean PSNR of recent answers, downscaled to their input's size, against their input",
    ),
    MetricSpec(
        name="sharpline_jobs",
        kind="gauge",
        labels=("state",),
        help="Queued (counted up to 10,000) or running jobs of all replicas; absent before the "
        "first job",
    ),
)
METRICS = {spec.name: spec for spec in TABLE}


def markdown() -> str:
    """The content of docs/metrics.md."""
    rows = [
        f"| `{spec.name}` | {spec.kind} | {', '.join(spec.labels) or '-'} | {spec.help} |"
        for spec in TABLE
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "The server's own metrics on `GET /metrics`, besides the usual `process_*` and",
            "`python_*`. Generated by `python -m serving.telemetry.metrics_table`.",
            "",
            "| name | kind | labels | meaning |",
            "|---|---|---|---|",
            *rows,
        ]
    )


if __name__ == "__main__":
    show(markdown())
