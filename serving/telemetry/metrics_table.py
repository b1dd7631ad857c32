"""Every metric of the server, in one table; docs/metrics.md is made from it.

Base units, and labels of few values only: a model's name is a label because the operator chooses
it, nothing that a client sends ever is.
"""

from dataclasses import dataclass

from superres.common.console import show

DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STAGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEVELS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
WASTES = (1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric: what it is called, counts and is split by; `buckets` of a histogram."""

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
        help="Requests answered; model is empty where none was chosen",
    ),
    MetricSpec(
        name="sharpline_problems_total",
        kind="counter",
        labels=("problem",),
        help="Requests refused or failed, by the kind of problem that they were told",
    ),
    MetricSpec(
        name="sharpline_request_duration_seconds",
        kind="histogram",
        buckets=DURATIONS,
        labels=("route", "model"),
        help="From a request's first byte to its answer's last",
    ),
    MetricSpec(
        name="sharpline_stage_duration_seconds",
        kind="histogram",
        buckets=STAGES,
        labels=("stage",),
        help="One stage of a picture's way: read, choose (for auto), decode, network (queueing "
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
        help="Pictures admitted and not yet answered",
    ),
    MetricSpec(
        name="sharpline_queue_tiles",
        kind="gauge",
        labels=("model",),
        help="Tiles that wait for the device",
    ),
    MetricSpec(
        name="sharpline_batch_fill_ratio",
        kind="histogram",
        buckets=RATIOS,
        labels=("model",),
        help="Tiles in a batch over the tiles of a full one",
    ),
    MetricSpec(
        name="sharpline_tile_waste_ratio",
        kind="histogram",
        buckets=WASTES,
        labels=("model",),
        help="Pixels given to the network over the picture's pixels",
    ),
    MetricSpec(
        name="sharpline_pixels_total",
        kind="counter",
        labels=("direction",),
        help="Pixels taken in and given out",
    ),
    MetricSpec(
        name="sharpline_model_info",
        kind="gauge",
        labels=("model", "version", "bundle"),
        help="1 for each model that is served now",
    ),
    MetricSpec(
        name="sharpline_model_swaps_total",
        kind="counter",
        labels=("model",),
        help="Times a newly loaded model began to serve",
    ),
    MetricSpec(
        name="sharpline_model_refusals_total",
        kind="counter",
        labels=("model",),
        help="Times a new model was refused while the old one served on",
    ),
    MetricSpec(
        name="sharpline_batch_failures_total",
        kind="counter",
        labels=("model",),
        help="Batches that failed on the device",
    ),
    MetricSpec(
        name="sharpline_memory_retries_total",
        kind="counter",
        labels=("model",),
        help="Times a batch was too large for the device's memory and was run in smaller parts",
    ),
    MetricSpec(
        name="sharpline_answers_cut_total",
        kind="counter",
        labels=("reason",),
        help="Answers broken off after their first byte, by problem label or as slow-client",
    ),
    MetricSpec(
        name="sharpline_inconsistent_regions_total",
        kind="counter",
        labels=("model", "version"),
        help="Regions of answers that, shrunk, were not those of their input",
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
        help="Pictures whose answer failed on the way, by version",
    ),
    MetricSpec(
        name="sharpline_version_duration_seconds",
        kind="histogram",
        buckets=DURATIONS,
        labels=("model", "version"),
        help="From a picture's first tile to its answer's last piece, by version",
    ),
    MetricSpec(
        name="sharpline_shadow_tiles_total",
        kind="counter",
        labels=("model", "version", "outcome"),
        help="Tiles on which a shadow was compared with its champion; outcome is compared, "
        "inconsistent (does not fit its input), failed or skipped",
    ),
    MetricSpec(
        name="sharpline_shadow_difference_levels",
        kind="histogram",
        buckets=LEVELS,
        labels=("model", "version"),
        help="Mean distance of a shadow's tile from its champion's, in grey levels of 255",
    ),
    MetricSpec(
        name="sharpline_model_seconds_per_megapixel",
        kind="gauge",
        labels=("model",),
        help="Device time of a million low-resolution pixels through the model, as seen lately",
    ),
    MetricSpec(
        name="sharpline_device_memory_bytes",
        kind="gauge",
        labels=("device", "kind"),
        help="Memory of each GPU: total, and used by whatever runs on it; none without a GPU",
    ),
    MetricSpec(
        name="sharpline_input_drift",
        kind="gauge",
        labels=("feature", "model"),
        help="How far the mean of live pictures is from that of the training pictures, in "
        "standard deviations of the training pictures",
    ),
    MetricSpec(
        name="sharpline_drift_pictures",
        kind="gauge",
        labels=("model",),
        help="Live pictures that the drift figure speaks of",
    ),
    MetricSpec(
        name="sharpline_consistency_db",
        kind="gauge",
        labels=("model",),
        help="Mean PSNR, over the latest answers, of the answer shrunk to its input's size "
        "against that input",
    ),
    MetricSpec(
        name="sharpline_jobs",
        kind="gauge",
        labels=("state",),
        help="Jobs of all replicas that are queued (at most 10,000 are counted) or running; none "
        "before the first job",
    ),
)
METRICS = {figure.name: figure for figure in TABLE}


def markdown() -> str:
    """The table as docs/metrics.md."""
    rows = [
        f"| `{figure.name}` | {figure.kind} | {', '.join(figure.labels) or '-'} | {figure.help} |"
        for figure in TABLE
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "What `GET /metrics` of the server shows, beside the usual `process_*` and `python_*`.",
            "Made by `python -m serving.telemetry.metrics_table` from the table of that module.",
            "",
            "| name | kind | labels | meaning |",
            "|---|---|---|---|",
            *rows,
        ]
    )


if __name__ == "__main__":
    show(markdown())
