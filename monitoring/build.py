"""Writes the generated files: the dashboard, the PrometheusRule, the tables under docs/.

`python -m monitoring.build` writes them, with --check it only lists stale ones. The files are
committed, because Grafana, kubectl and readers use them directly.
"""

import sys
from pathlib import Path

import yaml

from monitoring.grafana.build import serving
from serving import settings
from serving.telemetry import metrics_table
from superres.common.console import say

ROOT = Path(__file__).parents[1]
HEADER = "# Generated from monitoring/prometheus by `make generate`.\n"


def generated() -> dict[Path, str]:
    """The text of every generated file by path."""
    return {
        ROOT / "monitoring/grafana/dashboards/serving.json": serving(),
        ROOT / "k8s/components/monitoring/prometheusrule.yaml": prometheus_rule(),
        ROOT / "docs/metrics.md": metrics_table.markdown() + "\n",
        ROOT / "docs/settings.md": settings.markdown() + "\n",
    }


def prometheus_rule() -> str:
    """The recording and alerting rules as a PrometheusRule resource."""
    groups = [
        group
        for name in ("rules.yml", "alerts.yml")
        for group in yaml.safe_load((ROOT / "monitoring/prometheus" / name).read_text())["groups"]
    ]
    for group in groups:
        for rule in group["rules"]:
            rule["expr"] = " ".join(rule["expr"].split())
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "sharpline"},
        "spec": {"groups": groups},
    }
    return HEADER + yaml.safe_dump(resource, sort_keys=False, width=1000)


def main() -> int:
    """Write the files, or with --check return 1 if one is stale."""
    if "--check" not in sys.argv[1:]:
        for path, text in generated().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return 0
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generated().items()
        if not path.exists() or path.read_text() != text
    ]
    if stale:
        say(f"generated: {', '.join(stale)} differ from the code; run 'make generate' and commit")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
