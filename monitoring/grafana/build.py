"""The Grafana dashboards as code: each function is one dashboard, each tuple one row of panels."""

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
    """One panel over time: PromQL queries by legend, and the unit of their values."""

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
        description="Refusals and failures by kind; /problems/KIND says what each means.",
        queries={"{{problem}}": "sum by (problem) (rate(sharpline_problems_total[5m])) > 0"},
    ),
    Graph(
        title="Requests that failed",
        unit="percentunit",
        description="Answers with a status of 500 or more, over all answers.",
        queries={
            "5 minutes": "sharpline:request_errors:ratio_rate5m",
            "1 hour": "sharpline:request_errors:ratio_rate1h",
        },
    ),
    Graph(
        title="Time to an answer",
        unit="s",
        queries={
            "{{model}} median": 'sharpline:request_duration_seconds:p50_5m{model=~"$model"}',
            "{{model}} p95": 'sharpline:request_duration_seconds:p95_5m{model=~"$model"}',
        },
    ),
)
DEVICE = (
    Graph(
        title="Where a picture's time goes",
        unit="s",
        description="Mean seconds per stage; the network's include queueing.",
        queries={"{{stage}}": "sharpline:stage_duration_seconds:mean_5m"},
    ),
    Graph(
        title="Waiting and in flight",
        unit="short",
        queries={
            "tiles waiting, {{model}}": 'sum by (model) (sharpline_queue_tiles{model=~"$model"})',
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
        title="Batch fill",
        unit="percentunit",
        queries={"{{model}}": 'sharpline:batch_fill_ratio:mean_5m{model=~"$model"}'},
    ),
    Graph(
        title="Time of a batch, p95",
        unit="s",
        queries={"{{model}}": 'sharpline:batch_duration_seconds:p95_5m{model=~"$model"}'},
    ),
    Graph(
        title="Device time per megapixel",
        unit="s",
        description="Of input given to the network, as the latest batches took it.",
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
        title="Pixels computed per pixel needed",
        unit="short",
        queries={"{{model}}": 'sharpline:tile_waste_ratio:mean_5m{model=~"$model"}'},
    ),
)
QUALITY = (
    Graph(
        title="Error budget left",
        unit="percentunit",
        description="Of the half per cent of the API's requests that may fail in 30 days.",
        queries={"left": "sharpline:error_budget_left:ratio30d"},
    ),
    Graph(
        title="Distance of live pictures from the training pictures",
        unit="short",
        description="In standard deviations of the training pictures; 1 starts a retraining.",
        queries={"{{model}} {{feature}}": 'sharpline:input_drift:mean{model=~"$model"}'},
    ),
    Graph(
        title="Pictures behind that distance",
        unit="short",
        queries={"{{model}}": 'sum by (model) (sharpline_drift_pictures{model=~"$model"})'},
    ),
    Graph(
        title="Consistency of answers with their inputs",
        unit="dB",
        description="PSNR of the answer, shrunk again, against the picture that came in.",
        queries={"{{model}}": 'sharpline:consistency_db:min{model=~"$model"}'},
    ),
)
MODELS = (
    Graph(
        title="Swaps and refusals of models in the last hour",
        unit="short",
        queries={
            "swapped in, {{model}}": 'sharpline:model_swaps:increase1h{model=~"$model"}',
            "refused, {{model}}": 'sharpline:model_refusals:increase1h{model=~"$model"}',
        },
    ),
    Graph(
        title="Batches that failed in the last hour",
        unit="short",
        queries={"{{model}}": 'sharpline:batch_failures:increase1h{model=~"$model"}'},
    ),
    Graph(
        title="Alerts that fire",
        unit="short",
        queries={
            "{{alertname}} {{model}}": 'ALERTS{alertname=~"Sharpline.*", alertstate="firing"}'
        },
    ),
)
SERVED = 'max by (model, version, bundle) (sharpline_model_info{model=~"$model"})'


def serving() -> str:
    """The dashboard of the picture server, as Grafana's JSON."""
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
    board.with_panel(_served().id(next(ids)))
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


def _served() -> table.Panel:
    return (
        table.Panel()
        .title("Models served now")
        .datasource(SOURCE)
        .span(GRID_WIDTH)
        .height(PANEL_HEIGHT)
        .with_target(prometheus.Dataquery().ref_id("A").expr(SERVED).instant().format("table"))
    )
