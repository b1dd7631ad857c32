"""The server's metrics in a real Prometheus and Alertmanager: dashboards, alerts, notifications."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving.telemetry.metrics_table import TABLE

DASHBOARD = Path(__file__).parents[2] / "monitoring/grafana/dashboards/serving.json"
MODEL = "compact_x4"
VERSION = {"model": MODEL, "version": "1"}
AwaitTrue = Callable[..., Any]


def traffic(metric: Any) -> None:
    """Update every metric as one request would, with inputs far from the training pictures."""
    metric("sharpline_requests_total", route="/v1/enhance", status="200", model=MODEL).inc()
    metric("sharpline_request_duration_seconds", route="/v1/enhance", model=MODEL).observe(0.4)
    for stage in ("read", "decode", "network", "encode"):
        metric("sharpline_stage_duration_seconds", stage=stage).observe(0.1)
    for direction in ("in", "out"):
        metric("sharpline_pixels_total", direction=direction).inc(1000)
    metric("sharpline_batch_duration_seconds", model=MODEL).observe(0.2)
    metric("sharpline_batch_fill_ratio", model=MODEL).observe(0.5)
    metric("sharpline_tile_waste_ratio", model=MODEL).observe(1.3)
    metric("sharpline_batch_failures_total", model=MODEL).inc(0)
    metric("sharpline_model_swaps_total", model=MODEL).inc()
    metric("sharpline_model_refusals_total", model=MODEL).inc(0)
    metric("sharpline_pictures_in_flight").set(2)
    metric("sharpline_queue_tiles", model=MODEL).set(3)
    metric("sharpline_model_info", model=MODEL, version="1", bundle="b0").set(1)
    metric("sharpline_input_drift", model=MODEL, feature="noise").set(1.6)
    metric("sharpline_input_drift", model=MODEL, feature="blur").set(0.3)
    metric("sharpline_drift_pictures", model=MODEL).set(200)
    metric("sharpline_consistency_db", model=MODEL).set(34.0)
    metric("sharpline_problems_total", problem="queue-full").inc()
    metric("sharpline_out_of_memory_retries_total", model=MODEL).inc(0)
    metric("sharpline_responses_aborted_total", reason="slow-client").inc(0)
    metric("sharpline_inconsistent_regions_total", **VERSION).inc(0)
    metric("sharpline_version_pictures_total", role="champion", **VERSION).inc()
    metric("sharpline_version_failures_total", role="champion", **VERSION).inc(0)
    metric("sharpline_version_duration_seconds", **VERSION).observe(0.4)
    metric("sharpline_shadow_tiles_total", outcome="compared", **VERSION).inc()
    metric("sharpline_shadow_difference_levels", **VERSION).observe(0.5)
    metric("sharpline_model_seconds_per_megapixel", model=MODEL).set(1.2)
    metric("sharpline_device_memory_bytes", device="0", kind="used").set(1e9)
    metric("sharpline_jobs", state="queued").set(2)


@pytest.fixture(scope="module", autouse=True)
def metrics_flow(metric: Any, prometheus: Any, await_true: AwaitTrue) -> None:
    """Traffic over two scrapes, so that rates have values."""

    def has_rate() -> bool:
        traffic(metric)
        return bool(prometheus.query("sharpline:request_duration_seconds:p95_5m > 0"))

    await_true(has_rate, "two scrapes")


def test_every_metric_of_the_table_is_scraped(prometheus: Any, await_true: AwaitTrue) -> None:
    for row in TABLE:
        name = row.name + ("_count" if row.kind == "histogram" else "")
        await_true(partial(prometheus.query, name), name)


def dashboard_queries() -> list[tuple[str, str]]:
    board = json.loads(DASHBOARD.read_text())
    return [
        (panel["title"], target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.mark.parametrize(("panel", "expression"), dashboard_queries())
def test_dashboard_query_has_a_result(
    prometheus: Any, await_true: AwaitTrue, panel: str, expression: str
) -> None:
    assert panel
    expression = expression.replace("$__rate_interval", "1m").replace("$model", ".*")
    assert not re.search(r"\$\w", expression)
    await_true(lambda: prometheus.query(expression), expression)


def test_drift_fires_the_retraining_alert_once_and_notifies(
    prometheus: Any, await_true: AwaitTrue, notified: tuple[str, list[dict[str, Any]]]
) -> None:
    (alert,) = await_true(lambda: prometheus.firing("SharplineInputDrift"), "the alert")
    assert alert["labels"] == {
        "alertname": "SharplineInputDrift",
        "action": "retrain",
        "severity": "ticket",
        "model": MODEL,
        "feature": "noise",
    }
    assert not prometheus.firing("SharplineQuality")

    notifications = notified[1]
    await_true(
        lambda: any(
            message["commonLabels"].get("alertname") == "SharplineInputDrift"
            for message in notifications
        ),
        "a notification",
    )
    message = next(
        message
        for message in notifications
        if message["commonLabels"].get("alertname") == "SharplineInputDrift"
    )
    assert message["path"] == "/ticket"
    assert message["commonAnnotations"]["runbook"].endswith("#sharplineinputdrift")


def test_retraining_alert_ends_when_drift_ends(
    prometheus: Any, await_true: AwaitTrue, metric: Any
) -> None:
    await_true(lambda: prometheus.firing("SharplineInputDrift"), "the alert")
    metric("sharpline_input_drift", model=MODEL, feature="noise").set(0.1)
    await_true(lambda: not prometheus.firing("SharplineInputDrift"), "its end")


def test_failing_requests_send_a_page(
    prometheus: Any, await_true: AwaitTrue, metric: Any, notified: tuple[str, list[dict[str, Any]]]
) -> None:
    def paged() -> bool:
        metric("sharpline_requests_total", route="/v1/enhance", status="500", model=MODEL).inc(9)
        return any(message["path"] == "/page" for message in notified[1])

    await_true(paged, "a page")
    message = next(message for message in notified[1] if message["path"] == "/page")
    assert message["commonLabels"]["alertname"] == "SharplineErrors"
    await_true(lambda: prometheus.firing("SharplineErrors"), "the alert")
