"""Prometheus and Alertmanager on one machine, if installed, with the shipped rules."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from pipelines.steps import STARTERS
from sharpline.local.processes import Service, Services, responds

SHIPPED = STARTERS.parent / "monitoring"
RETENTION = "30d"


def program_path(name: str) -> str | None:
    """The path of `name` or, as Debian names some of these programs, `prometheus-NAME`."""
    return shutil.which(name) or shutil.which(f"prometheus-{name}")


def start_prometheus(
    services: Services,
    root: Path,
    port: int,
    *,
    scrape_port: int,
    alertmanager_port: int | None,
    environment: Mapping[str, str],
    files: Path | None = None,
) -> Service:
    """Start Prometheus on a copy of the rules that scrapes 127.0.0.1:`scrape_port`.

    `files` is the monitoring folder (default: SHIPPED).
    """
    configuration = root / "configuration"
    shutil.copytree((files or SHIPPED) / "prometheus", configuration, dirs_exist_ok=True)
    _write_targets(configuration / "targets" / "local.yml", scrape_port)
    _write_targets(configuration / "alertmanagers" / "local.yml", alertmanager_port)
    command = [
        "prometheus",
        f"--config.file={configuration / 'prometheus.yml'}",
        f"--storage.tsdb.path={root / 'data'}",
        f"--storage.tsdb.retention.time={RETENTION}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    return services.start("prometheus", command, environment=environment)


def start_alertmanager(
    services: Services,
    root: Path,
    port: int,
    *,
    environment: Mapping[str, str],
    files: Path | None = None,
) -> Service:
    """Start a single Alertmanager, without its cluster port; `files` as for `start_prometheus`."""
    command = [
        program_path("alertmanager") or "alertmanager",
        f"--config.file={(files or SHIPPED) / 'alertmanager' / 'alertmanager.yml'}",
        f"--storage.path={root}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    return services.start("alertmanager", command, environment=environment)


def is_up(url: str) -> bool:
    """Whether Prometheus or Alertmanager is ready at `url`."""
    return responds(f"{url}/-/ready")


def _write_targets(path: Path, port: int | None) -> None:
    targets = [] if port is None else [{"targets": [f"127.0.0.1:{port}"]}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(targets) + "\n")  # JSON is YAML
