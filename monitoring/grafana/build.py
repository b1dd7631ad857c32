"""Grafana dashboards as code: one function per dashboard, one tuple per row of panels."""

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard, prometheus, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableHide, VariableRefresh

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
ROW_PANELS = 3
GRID_WIDTH = 24
PANEL_HEIGHT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One time series panel: PromQL queries by legend, and their unit."""

    title: str
    unit: str
    queries: dict[str, str]
    description: str = ""


TRAFFIC = (
    Graph(
        title="Requests per second",
        unit="reqps",
        queries={
            "{{route}} {{status}}": (
                'sum by (route, status) (sharpline:requests:rate5m{model=~"$model|"})'
            )
        },
    ),
    Graph(
        title="Problems per second",
        unit="reqps",
        description="Error responses by problem type; /problems/TYPE explains each.",
        queries={"{{problem}}": "sum by (problem) (rate(sharpline_problems_total[5m])) > 0"},
    ),
    Graph(
        title="Error ratio",
        unit="percentunit",
        description="Responses with a status of 500 or more, over all responses.",
        queries={
            "5 minutes": "sharpline:request_errors:ratio_rate5m",
            "1 hour": "sharpline:request_errors:ratio_rate1h",
        },
    ),
    Graph(
        title="Request latency",
        unit="s",
        queries={
            "{{model}} median": 'sharpline:request_duration_seconds:p50_5m{model=~"$model"}',
            "{{model}} p95": 'sharpline:request_duration_seconds:p95_5m{model=~"$model"}',
        },
    ),
)
DEVICE = (
    Graph(
        title="Time per stage",
        unit="s",
        description="Mean seconds; the network stage includes queueing.",
        queries={"{{stage}}": "sharpline:stage_duration_seconds:mean_5m"},
    ),
    Graph(
        title="Queue and in flight",
        unit="short",
        queries={
            "tiles queued, {{model}}": 'sum by (model) (sharpline_queue_tiles{model=~"$model"})',
            "pictures in flight": "sum(sharpline_pictures_in_flight)",
        },
    ),
    Graph(
        title="Pixels per second",
        unit="suffix: pixel/s",
        queries={
            "{{direction}}": "sum by (direction) (rate(sharpline_pixels_total[$__rate_interval]))"
        },
    ),
    Graph(
        title="Batch fill ratio",
        unit="percentunit",
        queries={"{{model}}": 'sharpline:batch_fill_ratio:mean_5m{model=~"$model"}'},
    ),
    Graph(
        title="Batch time, p95",
        unit="s",
        queries={"{{model}}": 'sharpline:batch_duration_seconds:p95_5m{model=~"$model"}'},
    ),
    Graph(
        title="Device time per megapixel",
        unit="s",
        description="Per megapixel of input, from the latest batches.",
        queries={
            "{{model}}": 'max by (model) (sharpline_model_seconds_per_megapixel{model=~"$model"})'
        },
    ),
    Graph(
        title="Device memory",
        unit="bytes",
        queries={
            "{{instance}} {{device}} {{kind}}": "sharpline_device_memory_bytes",
            "{{instance}} process": 'process_resident_memory_bytes{job="sharpline"}',
        },
    ),
    Graph(
        title="Tile overhead",
        description="Pixels computed per pixel needed.",
        unit="short",
        queries={"{{model}}": 'sharpline:tile_waste_ratio:mean_5m{model=~"$model"}'},
    ),
)
QUALITY = (
    Graph(
        title="Error budget left",
        unit="percentunit",
        description="Share left of the 0.5% of API requests that may fail in 30 days.",
        queries={"left": "sharpline:error_budget_left:ratio30d"},
    ),
    Graph(
        title="Input drift",
        unit="short",
        description="Distance of live pictures from the training pictures, in standard deviations "
        "of the training pictures; above 1 in noise, blur or blockiness a training starts.",
        queries={"{{model}} {{feature}}": 'sharpline:input_drift:mean{model=~"$model"}'},
    ),
    Graph(
        title="Pictures in the drift window",
        unit="short",
        queries={"{{model}}": 'sum by (model) (sharpline_drift_pictures{model=~"$model"})'},
    ),
    Graph(
        title="Consistency of outputs with their inputs",
        unit="dB",
        description="PSNR of the downscaled output against the input.",
        queries={"{{model}}": 'sharpline:consistency_db:min{model=~"$model"}'},
    ),
)
MODELS = (
    Graph(
        title="Model reloads and refusals in the last hour",
        unit="short",
        queries={
            "reloaded, {{model}}": 'sharpline:model_swaps:increase1h{model=~"$model"}',
            "refused, {{model}}": 'sharpline:model_refusals:increase1h{model=~"$model"}',
        },
    ),
    Graph(
        title="Failed batches in the last hour",
        unit="short",
        queries={"{{model}}": 'sharpline:batch_failures:increase1h{model=~"$model"}'},
    ),
    Graph(
        title="Firing alerts",
        unit="short",
        queries={
            "{{alertname}} {{model}}": 'ALERTS{alertname=~"Sharpline.*", alertstate="firing"}'
        },
    ),
)
SERVED_MODELS_QUERY = 'max by (model, version, bundle) (sharpline_model_info{model=~"$model"})'


def serving() -> str:
    """The dashboard of the picture server as Grafana JSON."""
    board = (
        dashboard.Dashboard("Sharpline serving")
        .uid("sharpline-serving")
        .description("Traffic, device, quality and models of the picture server.")
        .tags(["sharpline"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("source")
            .label("Prometheus")
            .type("prometheus")
            .hide(VariableHide.DONT_HIDE)
        )
        .with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(SOURCE)
            .query("label_values(sharpline_model_info, model)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    )
    ids = itertools.count(1)
    rows = {"Traffic": TRAFFIC, "Device": DEVICE, "Quality": QUALITY, "Models": MODELS}
    for title, graphs in rows.items():
        board.with_row(dashboard.Row(title).id(next(ids)))
        for graph in graphs:
            board.with_panel(_panel(graph).id(next(ids)))
    board.with_panel(_served_models().id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _panel(graph: Graph) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(graph.title)
        .description(graph.description)
        .unit(graph.unit)
        .min(0)
        .datasource(SOURCE)
        .span(GRID_WIDTH // ROW_PANELS)
        .height(PANEL_HEIGHT)
    )
    for query in _queries(graph):
        panel.with_target(query)
    return panel


def _queries(graph: Graph) -> Iterator[prometheus.Dataquery]:
    letters = iter(string.ascii_uppercase)
    for legend, expression in graph.queries.items():
        yield prometheus.Dataquery().ref_id(next(letters)).expr(expression).legend_format(legend)


def _served_models() -> table.Panel:
    return (
        table.Panel()
        .title("Served models")
        .datasource(SOURCE)
        .span(GRID_WIDTH)
        .height(PANEL_HEIGHT)
        .with_target(
            prometheus.Dataquery().ref_id("A").expr(SERVED_MODELS_QUERY).instant().format("table")
        )
    )
