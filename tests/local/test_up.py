"""`sharpline up` with real Airflow, MLflow and, if installed, Prometheus; the commands are fakes.

One long test on purpose, because starting these services is slow.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sharpline.local.airflow_api import AirflowApi
from sharpline.local.monitoring import SHIPPED

FAKES = Path(__file__).parent.parent / "fakes"
UP = textwrap.dedent("""
    import sys
    from pathlib import Path
    from sharpline.cli import run
    from sharpline.local import monitoring, stack, up
    up.DEFAULT_PORTS = stack.Ports()  # any: the default ports may be in use
    stack.BIN, stack.STARTERS, monitoring.SHIPPED = map(Path, sys.argv[1:4])
    sys.exit(run(["up", "--no-loop"]))
""")
PROMETHEUS = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [alerts.yml]
"""
ALERTS = """
groups:
  - name: test
    rules:
      - {alert: Drift, expr: vector(1.5), labels: {action: retrain, feature: noise}}
      - {alert: Pending, expr: vector(1), for: 1h, labels: {action: retrain, feature: blur}}
      - {alert: Page, expr: vector(1), labels: {severity: page}}
"""


class Up:
    """A running `sharpline up` and its output."""

    def __init__(self, folder: Path, log: Path, await_true) -> None:
        self._await_true = await_true
        self.state = folder / "state"
        self._log = log
        arguments = [str(FAKES), str(folder / "models"), str(folder / "monitoring")]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP, *arguments],
                env={**os.environ, "SHARPLINE_STATE": str(self.state)},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def await_true(self, condition, what):
        self._await_true(condition, what, seconds=400, check=self._check)

    def _check(self) -> None:
        assert self.process.poll() is None, self.output()

    def output(self) -> str:
        return self._log.read_text()

    def calls(self, *arguments) -> int:
        """Number of commands run whose arguments start with these."""
        lines = (self.state / "calls.jsonl").read_text().splitlines()
        return sum(json.loads(line)[: len(arguments)] == list(arguments) for line in lines)

    def processes(self) -> list[str]:
        """Command lines of all live processes of this state, found by their environment."""
        variable = f"SHARPLINE_STATE={self.state}".encode()
        return [
            (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            for folder in Path("/proc").glob("[0-9]*")
            if _has(folder / "environ", variable)
        ]


def _has(path: Path, variable: bytes) -> bool:
    try:
        return variable in path.read_bytes().split(b"\0")
    except OSError:
        return False


@pytest.fixture
def up(tmp_path, airflow_database, await_true):
    (tmp_path / "models" / "compact_x4").mkdir(parents=True)
    (tmp_path / "models" / "compact_x4" / "bundle.json").write_text("{}")
    shutil.copytree(SHIPPED / "alertmanager", tmp_path / "monitoring" / "alertmanager")
    rules = tmp_path / "monitoring" / "prometheus"
    rules.mkdir()
    (rules / "prometheus.yml").write_text(PROMETHEUS)
    (rules / "alerts.yml").write_text(ALERTS)
    (tmp_path / "state" / "airflow").mkdir(parents=True)
    shutil.copy(airflow_database, tmp_path / "state" / "airflow" / "airflow.db")
    running = Up(tmp_path, tmp_path / "up.log", await_true)
    yield running
    running.process.kill()
    running.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_alert_retrains_once_and_ctrl_c_leaves_nothing_behind(up):
    up.await_true(lambda: "Ctrl-C stops everything" in up.output(), "being up")
    log_in = re.search(r"Airflow +(\S+) +user (\w+), password (\S+)", up.output())
    ports = [int(port) for port in re.findall(r"http://127.0.0.1:(\d+)", up.output())]
    assert len(set(ports)) >= 3
    with AirflowApi(*log_in.groups()) as api:
        if shutil.which("prometheus"):
            _alert_starts_the_loop(up)
        else:
            api.trigger("build_pairs", "by-hand", {})
            up.await_true(lambda: up.calls("promote") == 3, "three promotions")
        _interrupt_while_training(up, api)
    assert up.processes() == []
    assert [port for port in ports if _listens(port)] == []


def _alert_starts_the_loop(up):
    up.await_true(lambda: up.calls("promote") == 3, "three promotions after an alert")
    noisy = "{bicubic_jpeg: 3, gaussian_noise: 1, iso_noise: 1, poisson_noise: 1}"
    assert up.calls("data", "plan", "sample", "--degrade", noisy) == 1
    assert up.calls("data", "seal") == 1
    with contextlib.closing(sqlite3.connect(up.state / "airflow" / "airflow.db")) as database:
        runs = database.execute("SELECT dag_id, run_type FROM dag_run").fetchall()
        [(stored,)] = database.execute("SELECT value FROM asset_state_store").fetchall()
        [(extra,)] = database.execute(
            "SELECT extra FROM asset_event WHERE source_task_id = 'seal'"
        ).fetchall()
    assert sorted(runs) == [
        (dag_id, "asset_triggered") for dag_id in ("build_pairs", "finetune", "release")
    ]
    [alert] = json.loads(extra)["alerts"]
    assert json.loads(extra)["started_by"] == "alert"
    assert alert["labels"] == {"alertname": "Drift", "action": "retrain", "feature": "noise"}
    assert float(alert["value"]) == 1.5
    assert list(json.loads(stored)) == [alert["key"]]


def _interrupt_while_training(up, api):
    linger = up.state / "linger"
    linger.touch()
    api.trigger("finetune", "by-hand", {})
    up.await_true(linger.read_text, "a training at work")
    assert any("train" in command for command in up.processes())
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=180) == 0, up.output()
    assert "stopped" in up.output()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
