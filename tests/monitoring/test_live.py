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
MODEL = "compact_x2"
ONLY_WITH_GPU = "sharpline_device_memory_bytes"
AwaitTrue = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def requests_flow(traffic: Any, prometheus: Any, await_true: AwaitTrue) -> None:
    """Requests over two scrapes, so that rates have values; pictures unlike the training's."""
    traffic.submit_job()
    traffic.fail()
    traffic.abort()

    def has_rates() -> bool:
        traffic.refuse()
        traffic.enhance(traffic.noisy)
        p95, problems = "sharpline:request_duration_seconds:p95_5m", "sharpline_problems_total"
        return all(map(prometheus.query, (f"{p95} > 0", f"rate({problems}[5m]) > 0")))

    await_true(has_rates, "two scrapes")


def test_every_metric_of_the_table_is_scraped_with_its_labels(
    prometheus: Any, await_true: AwaitTrue
) -> None:
    for row in TABLE:
        name = row.name + ("_count" if row.kind == "histogram" else "")
        if name == ONLY_WITH_GPU:
            continue
        found = await_true(partial(prometheus.query, name), name)
        labels = {label for series in found for label in series["metric"]}
        assert labels == {"__name__", "job", "instance", *row.labels}


def dashboard_queries() -> list[tuple[str, str]]:
    board = json.loads(DASHBOARD.read_text())
    return [
        (panel["title"], target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", [])
        if target["expr"] != ONLY_WITH_GPU
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
    prometheus: Any, await_true: AwaitTrue, traffic: Any
) -> None:
    await_true(lambda: prometheus.firing("SharplineInputDrift"), "the alert")
    for _ in range(4):
        traffic.enhance(traffic.calm)
    await_true(lambda: not prometheus.firing("SharplineInputDrift"), "its end")


def test_failing_requests_send_a_page(
    prometheus: Any, await_true: AwaitTrue, traffic: Any, notified: tuple[str, list[dict[str, Any]]]
) -> None:
    assert not any(message["path"] == "/page" for message in notified[1])

    def paged() -> bool:
        traffic.fail()
        return any(message["path"] == "/page" for message in notified[1])

    await_true(paged, "a page")
    message = next(message for message in notified[1] if message["path"] == "/page")
    assert message["commonLabels"]["alertname"] == "SharplineErrors"
    await_true(lambda: prometheus.firing("SharplineErrors"), "the alert")
