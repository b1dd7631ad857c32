"""`build_pairs` in a real Airflow with the real commands, from a mirror's archive to a dataset.

One long test on purpose: starting Airflow is what takes the time.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from sharpline.local import airflow
from sharpline.local.airflow_api import AirflowApi, Run
from sharpline.local.processes import Services, choose_ports
from superres.image.codecs import Picture, write

SHARPLINE = str(Path(sys.executable).with_name("sharpline"))
# Logs each call. Shard 0 hangs while the file `hold` exists, into which it writes its process id;
# shard 1 exits with a usage error while the file `refuse` exists.
WRAPPER = """#!/bin/sh
echo "$*" >> "$SHARPLINE_STATE/calls"
case "$*" in
    *"--shard 0 "*) if [ -e "$SHARPLINE_STATE/hold" ]; then
        echo $$ > "$SHARPLINE_STATE/hold"; exec sleep 600; fi ;;
    *"--shard 1 "*) [ -e "$SHARPLINE_STATE/refuse" ] && exit 2 ;;
esac
exec {sharpline} "$@"
"""
ASSETS = "from pipelines.assets import PAIRS, PICTURES, RETRAIN\n"
QUICK_ASSETS = """
from airflow.sdk import Asset, AssetWatcher
from pipelines.assets import PAIRS, RETRAIN
from pipelines.triggers import FolderTrigger

QUICK = FolderTrigger(poll_seconds=0.5, settle_seconds=1.0)
PICTURES = Asset("test://pictures", watchers=[AssetWatcher(name="folders", trigger=QUICK)])
"""


class Site:
    """A running Airflow with the DAG `build_pairs` only."""

    def __init__(
        self, state: Path, services: Services, site: airflow.AirflowConfig, await_true
    ) -> None:
        self.state = state
        self._await_true = await_true
        self.api = AirflowApi(site.url, airflow.USER, site.password)
        self._services = services
        self._site = site

    def __enter__(self):
        self._client = httpx.Client(base_url=self._site.url, timeout=60)
        login = {"username": airflow.USER, "password": self._site.password}
        token = self._client.post("/auth/token", json=login).json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"
        return self

    def __exit__(self, *_):
        self._client.close()

    def await_condition(self, condition, what):
        self._await_true(condition, what, seconds=240, check=self._services.check)

    def build(self, run_id: str, **parameters) -> Run:
        return self.api.trigger("build_pairs", run_id, parameters)

    def await_end(self, run: Run, state: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of each task, once the run has ended in `state`."""
        self.await_condition(lambda: self.api.run(run.dag_id, run.run_id).finished, run.run_id)
        tasks = {task.name: (task.state, task.try_number) for task in self.api.tasks(run)}
        assert self.api.run(run.dag_id, run.run_id).state == state, tasks
        return tasks

    def event_of(self, run: Run) -> dict:
        [event] = self.api.asset_events(run)
        return dict(event.extra)

    def clear(self, run: Run, task_id: str, index: int) -> None:
        """Clear one failed instance of a task and its downstream tasks, so that they run again."""
        options = {"dag_run_id": run.run_id, "task_ids": [[task_id, index]], "dry_run": False}
        page = f"/api/v2/dags/{run.dag_id}/clearTaskInstances"
        response = self._client.post(page, json=options | {"include_downstream": True})
        response.raise_for_status()

    def runs(self) -> set[str]:
        """The ids of all runs, however they were started."""
        runs = self._client.get("/api/v2/dags/build_pairs/dagRuns").json()["dag_runs"]
        return {run["dag_run_id"] for run in runs}

    def calls(self, *arguments: str) -> int:
        """How often a command with these arguments was run."""
        lines = (self.state / "calls").read_text().splitlines()
        return sum(f" {' '.join(arguments)} " in f" {line} " for line in lines)


@pytest.fixture
def site(tmp_path, monkeypatch, airflow_database, await_true):
    """Airflow's four processes on an empty state folder, with the wrapper as `sharpline`."""
    state, dags, programs = (tmp_path / name for name in ("state", "dags", "bin"))
    for folder in (state, dags, programs):
        folder.mkdir()
    dag_file = (airflow.DAGS / "build_pairs.py").read_text()
    assert ASSETS in dag_file
    (dags / "build_pairs.py").write_text(dag_file.replace(ASSETS, QUICK_ASSETS))
    monkeypatch.setattr(airflow, "DAGS", dags)
    wrapper = programs / "sharpline"
    wrapper.write_text(WRAPPER.format(sharpline=SHARPLINE))
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SHARPLINE_STATE", str(state))
    with Services(tmp_path / "logs") as services:
        prepared = airflow.prepare(tmp_path / "airflow", *choose_ports(0))
        shutil.copy(airflow_database, prepared.home / "airflow.db")
        api_server, *_ = airflow.start_components(services, prepared, os.environ)
        api_server.await_ready(lambda: airflow.is_up(prepared), timeout_seconds=240)
        with Site(state, services, prepared, await_true) as running, running.api as api:
            running.await_condition(lambda: "build_pairs" in api.dag_ids(), "the DAG being known")
            assert api.import_errors() == []
            yield running


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_build_from_a_mirror_survives_a_kill_and_a_refusal_and_repeats_itself(
    site, mirror, files_of
):
    mirror.write_div2k_catalogue(
        site.state, train=pictures(20, seed=1), validation=pictures(2, seed=2)
    )
    parameters = {"source": "div2k", "mirror": mirror.address, "watched": False, "scale": 2}
    (site.state / "hold").touch()
    (site.state / "refuse").touch()
    first = site.build("first", **parameters)
    _kill_the_held_shard(site)
    _one_shard_fails_and_the_others_are_built(site, first)
    _clearing_builds_that_shard_alone(site, first)
    built = site.event_of(first)
    assert built["unchanged"] is False
    assert built["started_by"] == "manual"
    second = site.build("second", **parameters)
    _put_pictures_into_a_watched_folder(site)
    assert _a_second_run_changes_nothing(site, second) == built | {"unchanged": True}
    assert built["dataset"] == _built_without_airflow(site.state, built, files_of)
    _the_watched_folder_started_a_build(site)


def _kill_the_held_shard(site):
    hold = site.state / "hold"
    site.await_condition(hold.read_text, "shard 0 at work")
    pid = int(hold.read_text())
    hold.unlink()
    os.kill(pid, signal.SIGKILL)


def _one_shard_fails_and_the_others_are_built(site, run):
    tasks = site.await_end(run, "failed")
    assert tasks["fetch div2k"] == ("success", 1)
    assert tasks["build_shard 0"] == ("success", 2)  # retried after the kill
    assert tasks["build_shard 1"] == ("failed", 1)  # usage error: not retried
    assert tasks["build_shard 2"] == ("success", 1)
    assert tasks["seal"][0] == "upstream_failed"


def _clearing_builds_that_shard_alone(site, run):
    (site.state / "refuse").unlink()
    site.clear(run, "build_shard", 1)
    tasks = site.await_end(run, "success")
    assert tasks["build_shard 1"][0] == "success"
    assert [site.calls("--shard", str(shard)) for shard in range(3)] == [2, 2, 1]
    assert site.calls("data", "seal") == 1


def _put_pictures_into_a_watched_folder(site):
    inbox = site.state.parent / "inbox"
    inbox.mkdir()
    for index, pixels in enumerate(pictures(2, seed=3)):
        write(inbox / f"{index}.png", Picture(rgb_hwc=pixels))
    arguments = ["--watch", "--i-own-the-rights", "--licence", "CC0-1.0 (test)"]
    subprocess.run([SHARPLINE, "data", "add", str(inbox), *arguments], check=True)


def _the_watched_folder_started_a_build(site):
    site.await_condition(lambda: len(site.runs()) == 3, "a third run")
    [run_id] = site.runs() - {"first", "second"}
    run = site.api.run("build_pairs", run_id)
    site.await_end(run, "success")
    built = site.event_of(run)
    assert (built["started_by"], built["unchanged"]) == ("pictures", False)
    assert "CC0-1.0 (test)" in built["licences"]
    assert site.calls("data", "plan", "sample", "--also", "inbox") == 1


def _a_second_run_changes_nothing(site, run):
    tasks = site.await_end(run, "success")
    assert tasks["fetch"][0] == "skipped"
    assert tasks["build_shard"][0] == "skipped"
    assert site.calls("data", "fetch", "div2k") == 1
    assert site.calls("data", "build") == 5
    return site.event_of(run)


def _built_without_airflow(state, built, files_of):
    """The id of the same dataset built by one command; checks that its files are the same."""
    out = state / "by-hand"
    arguments = ["data", "build", "div2k", "--scale", "2", "--degrade", "bicubic_jpeg"]
    arguments += ["--out", str(out), "--json"]
    done = subprocess.run([SHARPLINE, *arguments], check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert files_of(Path(result["path"])) == files_of(Path(built["path"]))
    return result["dataset"]


def pictures(count, *, seed):
    """Pictures of 96 pixels a side that are no near-duplicates."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return list(coarse.repeat(8, 1).repeat(8, 2))
