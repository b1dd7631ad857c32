"""The monitoring files hold together: names, links, labels and what is made from code."""

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
def test_alert_has_its_section_and_its_test(alert: dict[str, Any]) -> None:
    page, anchor = alert["annotations"]["runbook"].split("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    tests = "".join(path.read_text() for path in PROMETHEUS.glob("tests/*.yml"))
    assert f"alertname: {alert['alert']}" in tests
    assert alert["labels"]["severity"] in {"page", "ticket"}


def test_only_drift_and_quality_retrain() -> None:
    retraining = {alert["alert"] for alert in ALERTS if alert["labels"].get("action") == "retrain"}
    assert retraining == {"SharplineInputDrift", "SharplineQuality"}


def test_drift_alert_watches_features_that_are_measured() -> None:
    drift = next(alert for alert in ALERTS if alert["alert"] == "SharplineInputDrift")
    watched = re.search(r'feature=~"([^"]+)"', drift["expr"])
    assert watched is not None
    assert set(watched[1].split("|")) < set(FEATURES)


def test_every_name_in_rules_and_dashboards_exists() -> None:
    queries = dashboard_queries() + [alert["expr"] for alert in ALERTS]
    queries.append((PROMETHEUS / "rules.yml").read_text())
    used = set(re.findall(r"\bsharpline_\w+", " ".join(queries)))
    shown = {figure.name for figure in TABLE}
    shown |= {
        f"{figure.name}_{part}"
        for figure in TABLE
        if figure.kind == "histogram"
        for part in ("bucket", "sum", "count")
    }
    assert used <= shown
    assert set(re.findall(r"\bsharpline:\w+(?::\w+)*", " ".join(queries))) <= RECORDED


def test_made_files_are_up_to_date() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "monitoring.build", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def test_stale_dashboard_is_named(tmp_path: Path) -> None:
    for name in ("monitoring", "serving", "superres", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "k8s/components/monitoring", tmp_path / "k8s/components/monitoring")
    path = tmp_path / "monitoring/grafana/dashboards/serving.json"
    path.write_text(path.read_text().replace("Sharpline serving", "Mended by hand"))
    check = [sys.executable, "-m", "monitoring.build", "--check"]
    answer = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "serving.json" in answer.stderr
    assert "make generate" in answer.stderr
    assert "metrics.md" not in answer.stderr


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


def test_rules_and_configurations_pass_their_own_tools() -> None:
    answer = monitoring_check(ROOT)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("prometheus/alerts.yml", "mean{feature", "mean{{feature", "promtool check"),
        ("prometheus/alerts.yml", "> 1\n", "> 2\n", "promtool test"),
        ("alertmanager/alertmanager.yml", "receiver: ticket", "receiver: nobody", "amtool"),
    ],
)
def test_broken_file_is_refused_by_name(
    tmp_path: Path, file: str, old: str, new: str, named: str
) -> None:
    shutil.copytree(ROOT / "monitoring", tmp_path / "monitoring")
    path = tmp_path / "monitoring" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    answer = monitoring_check(tmp_path)
    assert answer.returncode == 1
    assert f"{named}" in answer.stderr
