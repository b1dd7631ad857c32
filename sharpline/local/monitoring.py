"""Prometheus and Alertmanager on one machine, if installed, with the shipped rules."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import httpx

from pipelines.steps import STARTERS
from sharpline.local.processes import Service, Services

SHIPPED = STARTERS.parent / "monitoring"
RETENTION = "30d"


def prometheus_installed() -> bool:
    return shutil.which("prometheus") is not None


def alertmanager_installed() -> bool:
    return _alertmanager() is not None


def start_prometheus(
    services: Services,
    root: Path,
    port: int,
    *,
    scrape_port: int,
    alertmanager_port: int | None,
    environment: Mapping[str, str],
) -> Service:
    """Start Prometheus on a copy of the shipped rules that scrapes 127.0.0.1:`scrape_port`."""
    configuration = root / "configuration"
    shutil.copytree(SHIPPED / "prometheus", configuration, dirs_exist_ok=True)
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
    services: Services, root: Path, port: int, *, environment: Mapping[str, str]
) -> Service:
    """Start a single Alertmanager, without its cluster port."""
    command = [
        _alertmanager() or "alertmanager",
        f"--config.file={SHIPPED / 'alertmanager' / 'alertmanager.yml'}",
        f"--storage.path={root}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    return services.start("alertmanager", command, environment=environment)


def answers(url: str) -> bool:
    """Whether Prometheus or Alertmanager is ready at `url`."""
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _alertmanager() -> str | None:
    """The program's path; Debian names it prometheus-alertmanager."""
    return shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")


def _write_targets(path: Path, port: int | None) -> None:
    targets = [] if port is None else [{"targets": [f"127.0.0.1:{port}"]}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(targets) + "\n")  # JSON is YAML
