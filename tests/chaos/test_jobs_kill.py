"""Replicas that share their jobs are killed at random moments; nothing is lost or given twice."""

import random
import sqlite3
import time

import httpx
import numpy as np
import pytest

from superres.image import decode

SHORT_KILLS, FULL_KILLS = 3, 100
JOBS_PER_KILL = 3
PATIENCE_SECONDS = 60


class Replicas:
    """Two servers over one folder, each replaced when it is killed."""

    def __init__(self, start, folder):
        self._start = lambda: start(
            FAKE_SECONDS="0.03",
            SHARPLINE_JOBS__FOLDER=str(folder),
            SHARPLINE_JOBS__LEASE_SECONDS="0.6",
            SHARPLINE_JOBS__BEAT_SECONDS="0.1",
            SHARPLINE_JOBS__POLL_SECONDS="0.1",
        )
        self.running = [self._start(), self._start()]

    def kill_one(self):
        """kill -9, then a new process in its place."""
        index = random.randrange(2)
        process, _ = self.running[index]
        process.kill()
        process.wait()
        self.running[index] = self._start()

    @property
    def urls(self):
        return [url for _, url in self.running]


def ask(replicas, method, path, **how):
    """The answer of whichever replica is there; a killed one's is asked for again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            url = random.choice(replicas.urls)
            return httpx.request(method, url + path, timeout=30, **how)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                pytest.fail(f"no replica answered {method} {path}")


def submit(replicas, value, flat_png):
    answer = ask(
        replicas,
        "POST",
        "/v1/jobs?format=png&delete_on_fetch=true",
        content=flat_png(value),
        headers={"Idempotency-Key": f"picture-{value}"},
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def test_killed_replicas_lose_nothing_and_give_nothing_twice(fake_server, flat_png, tmp_path, soak):
    replicas = Replicas(fake_server, tmp_path / "jobs")
    kills = FULL_KILLS if soak else SHORT_KILLS
    # Pictures of one value each, so that every result says whose it is; 13 breaks the device.
    fetched = 0
    for _ in range(kills):
        values = random.sample([value for value in range(256) if value != 13], JOBS_PER_KILL)
        jobs = {value: submit(replicas, value, flat_png) for value in values}
        time.sleep(random.uniform(0, 0.3))
        replicas.kill_one()
        for value, job_id in jobs.items():
            assert submit(replicas, value, flat_png) == job_id  # the key outlives the kill
            fetch_once(replicas, job_id, value)
            fetched += 1
        forget_keys(tmp_path / "jobs" / "jobs.db")
    assert fetched == kills * JOBS_PER_KILL


def fetch_once(replicas, job_id, value):
    """The job's own result, once."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        job = ask(replicas, "GET", f"/v1/jobs/{job_id}?wait=10").json()
        if job["state"] == "done":
            break
        assert job["state"] in ("queued", "running"), job
        assert time.monotonic() < deadline, job
    result = ask(replicas, "GET", f"/v1/jobs/{job_id}/result")
    assert result.status_code == 200
    assert np.all(decode(result.content).rgb_hwc == value)
    # It is deleted once its last byte was sent, so a moment after the client has that.
    while ask(replicas, "GET", f"/v1/jobs/{job_id}").json()["state"] != "deleted":
        assert time.monotonic() < deadline
    for url in replicas.urls:
        again = httpx.get(f"{url}/v1/jobs/{job_id}/result", timeout=30)
        assert (again.status_code, again.json()["type"]) == (410, "/problems/job-gone")


def forget_keys(database):
    """Every job is over: as many rows as were made, none of them alive; values may come again."""
    with sqlite3.connect(database, timeout=30) as connection:
        states = connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        assert states == [("deleted", JOBS_PER_KILL)]
        connection.execute("DELETE FROM jobs")
    connection.close()
