"""The monitoring files are consistent: names, links, labels and generated files."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.telemetry.metrics_table import TABLE
from superres.analysis.degradation_features import FEATURES

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "monitoring/prometheus"
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {
    rule["record"]
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
}


def dashboard_queries() -> list[str]:
    board = json.loads((ROOT / "monitoring/grafana/dashboards/serving.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alert_has_a_runbook_section_and_a_test(alert: dict[str, Any]) -> None:
    page, anchor = alert["annotations"]["runbook"].split("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    tests = "".join(path.read_text() for path in PROMETHEUS.glob("tests/*.yml"))
    assert f"alertname: {alert['alert']}" in tests
    assert alert["labels"]["severity"] in {"page", "ticket"}


def test_only_drift_and_quality_retrain() -> None:
    retraining = {alert["alert"] for alert in ALERTS if alert["labels"].get("action") == "retrain"}
    assert retraining == {"SharplineInputDrift", "SharplineQuality"}


def test_drift_alert_uses_measured_features() -> None:
    drift = next(alert for alert in ALERTS if alert["alert"] == "SharplineInputDrift")
    features = re.search(r'feature=~"([^"]+)"', drift["expr"])
    assert features is not None
    assert set(features[1].split("|")) < set(FEATURES)


def test_every_metric_in_rules_and_dashboards_exists() -> None:
    queries = dashboard_queries() + [alert["expr"] for alert in ALERTS]
    queries.append((PROMETHEUS / "rules.yml").read_text())
    used = set(re.findall(r"\bsharpline_\w+", " ".join(queries)))
    exported = {metric.name for metric in TABLE}
    exported |= {
        f"{metric.name}_{part}"
        for metric in TABLE
        if metric.kind == "histogram"
        for part in ("bucket", "sum", "count")
    }
    assert used <= exported
    assert set(re.findall(r"\bsharpline:\w+(?::\w+)*", " ".join(queries))) <= RECORDED


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "monitoring.build", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_stale_dashboard_is_reported(tmp_path: Path) -> None:
    for name in ("monitoring", "serving", "superres", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "k8s/components/monitoring", tmp_path / "k8s/components/monitoring")
    path = tmp_path / "monitoring/grafana/dashboards/serving.json"
    path.write_text(path.read_text().replace("Sharpline serving", "Edited by hand"))
    check = [sys.executable, "-m", "monitoring.build", "--check"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "serving.json" in done.stderr
    assert "make generate" in done.stderr
    assert "metrics.md" not in done.stderr


def monitoring_check(folder: Path) -> subprocess.CompletedProcess[str]:
    for program in ("promtool", "amtool"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt-get install prometheus prometheus-alertmanager")
    return subprocess.run(
        [sys.executable, "-m", "monitoring.check"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_rules_and_configurations_pass_promtool_and_amtool() -> None:
    done = monitoring_check(ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "tool"),
    [
        ("prometheus/alerts.yml", "mean{feature", "mean{{feature", "promtool check"),
        ("prometheus/alerts.yml", "> 1\n", "> 2\n", "promtool test"),
        ("alertmanager/alertmanager.yml", "receiver: ticket", "receiver: nobody", "amtool"),
    ],
)
def test_broken_file_is_reported(tmp_path: Path, file: str, old: str, new: str, tool: str) -> None:
    shutil.copytree(ROOT / "monitoring", tmp_path / "monitoring")
    path = tmp_path / "monitoring" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    done = monitoring_check(tmp_path)
    assert done.returncode == 1
    assert tool in done.stderr
