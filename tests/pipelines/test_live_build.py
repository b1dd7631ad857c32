"""`build_pairs` in a real Airflow with the real commands, from a mirror's archive to a dataset.

One long test on purpose: starting Airflow is what takes the time.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from sharpline.local import airflow
from sharpline.local.airflow_api import AirflowApi, Run
from sharpline.local.processes import Services, choose_ports
from superres.image.codecs import Picture, write

SHARPLINE = str(Path(sys.executable).with_name("sharpline"))
# Notes each call. Its shard 0 hangs while there is a file `hold`, into which it writes its process
# id; its shard 1 is refused while there is a file `refuse`.
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
    """A running Airflow that knows `build_pairs` alone."""

    def __init__(self, state: Path, services: Services, site: airflow.AirflowSite) -> None:
        self.state = state
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

    def await_true(self, condition, what, seconds=240):
        deadline = time.monotonic() + seconds
        while not condition():
            self._services.check()
            assert time.monotonic() < deadline, f"{what} never came true"
            time.sleep(0.2)

    def build(self, run_id: str, **parameters) -> Run:
        return self.api.trigger("build_pairs", run_id, parameters)

    def await_end(self, run: Run, state: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of each task, once the run has ended as it should."""
        self.await_true(lambda: self.api.run(run.dag_id, run.run_id).finished, run.run_id)
        tasks = {task.name: (task.state, task.try_number) for task in self.api.tasks(run)}
        assert self.api.run(run.dag_id, run.run_id).state == state, tasks
        return tasks

    def announced(self, run: Run) -> dict:
        [event] = self.api.events_of(run)
        return dict(event.extra)

    def clear(self, run: Run, task_id: str, index: int) -> None:
        """Have one failed instance of a task, and what comes after it, run again."""
        wanted = {"dag_run_id": run.run_id, "task_ids": [[task_id, index]], "dry_run": False}
        page = f"/api/v2/dags/{run.dag_id}/clearTaskInstances"
        answer = self._client.post(page, json=wanted | {"include_downstream": True})
        answer.raise_for_status()

    def runs(self) -> set[str]:
        """The ids of all runs, however they were started."""
        found = self._client.get("/api/v2/dags/build_pairs/dagRuns").json()["dag_runs"]
        return {run["dag_run_id"] for run in found}

    def calls(self, *arguments: str) -> int:
        """How often a command that has these words was run."""
        lines = (self.state / "calls").read_text().splitlines()
        return sum(f" {' '.join(arguments)} " in f" {line} " for line in lines)


@pytest.fixture
def site(tmp_path, monkeypatch, airflow_database):
    """Airflow's four processes on an empty state, with the wrapper as `sharpline`."""
    state, dags, programs = (tmp_path / name for name in ("state", "dags", "bin"))
    for folder in (state, dags, programs):
        folder.mkdir()
    drawing = (airflow.DAGS / "build_pairs.py").read_text()
    assert ASSETS in drawing
    (dags / "build_pairs.py").write_text(drawing.replace(ASSETS, QUICK_ASSETS))
    monkeypatch.setattr(airflow, "DAGS", dags)
    wrapper = programs / "sharpline"
    wrapper.write_text(WRAPPER.format(sharpline=SHARPLINE))
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SHARPLINE_STATE", str(state))
    with Services(tmp_path / "logs") as services:
        found = airflow.prepare(tmp_path / "airflow", *choose_ports(0))
        shutil.copy(airflow_database, found.home / "airflow.db")
        api_server, *_ = airflow.start_parts(services, found, os.environ)
        api_server.await_ready(lambda: airflow.is_up(found), timeout_seconds=240)
        with Site(state, services, found) as running, running.api as api:
            running.await_true(lambda: "build_pairs" in api.dag_ids(), "the DAG being known")
            assert api.import_errors() == []
            yield running


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_build_from_a_mirror_survives_a_kill_and_a_refusal_and_repeats_itself(site, mirror):
    mirror.offer_div2k(site.state, train=pictures(20, seed=1), validation=pictures(2, seed=2))
    asked = {"source": "div2k", "mirror": mirror.address, "watched": False, "scale": 2}
    (site.state / "hold").touch()
    (site.state / "refuse").touch()
    first = site.build("first", **asked)
    _kill_the_held_shard(site)
    _one_shard_is_refused_and_the_others_are_built(site, first)
    _clearing_builds_that_shard_alone(site, first)
    built = site.announced(first)
    assert built["unchanged"] is False
    assert built["started_by"] == "person"
    second = site.build("second", **asked)
    _put_pictures_into_a_watched_folder(site)
    assert _a_second_run_changes_nothing(site, second) == built | {"unchanged": True}
    assert built["dataset"] == _built_without_airflow(site.state, built)
    _the_watched_folder_started_a_build(site)


def _kill_the_held_shard(site):
    hold = site.state / "hold"
    site.await_true(hold.read_text, "shard 0 at work")
    pid = int(hold.read_text())
    hold.unlink()
    os.kill(pid, signal.SIGKILL)


def _one_shard_is_refused_and_the_others_are_built(site, run):
    tasks = site.await_end(run, "failed")
    assert tasks["fetch div2k"] == ("success", 1)
    assert tasks["build_shard 0"] == ("success", 2)  # tried again after the kill
    assert tasks["build_shard 1"] == ("failed", 1)  # wrong words: not tried again
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
    site.await_true(lambda: len(site.runs()) == 3, "a third run")
    [run_id] = site.runs() - {"first", "second"}
    run = site.api.run("build_pairs", run_id)
    site.await_end(run, "success")
    built = site.announced(run)
    assert (built["started_by"], built["unchanged"]) == ("pictures", False)
    assert "CC0-1.0 (test)" in built["licences"]
    assert site.calls("data", "plan", "sample", "--also", "inbox") == 1


def _a_second_run_changes_nothing(site, run):
    tasks = site.await_end(run, "success")
    assert tasks["fetch"][0] == "skipped"
    assert tasks["build_shard"][0] == "skipped"
    assert site.calls("data", "fetch", "div2k") == 1
    assert site.calls("data", "build") == 5
    return site.announced(run)


def _built_without_airflow(state, built):
    """The id that one undisturbed command gives the same pictures; its pairs are the same bytes."""
    out = state / "by-hand"
    arguments = ["data", "build", "div2k", "--scale", "2", "--degrade", "bicubic_jpeg"]
    arguments += ["--out", str(out), "--json"]
    done = subprocess.run([SHARPLINE, *arguments], check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert contents(Path(result["path"])) == contents(Path(built["path"]))
    return result["dataset"]


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def pictures(count, *, seed):
    """Pictures of 96 pixels a side that nobody takes for one another."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return list(coarse.repeat(8, 1).repeat(8, 2))
