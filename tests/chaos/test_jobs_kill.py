"""Replicas that share jobs are killed at random; no job is lost or delivered twice."""

import random
import threading
import time

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from bench.postgres import postgres, postgres_unavailable_reason
from superres.image.codecs import decode

SHORT_KILLS, FULL_KILLS = {"sqlite": 3, "postgresql": 1}, 100
JOBS_PER_KILL = 3
TILE_SECONDS = 0.25  # of a job; three jobs keep two replicas busy for twice as long
MAX_KILL_DELAY_SECONDS = 0.8
TIMEOUT_SECONDS = 60


class Replicas:
    """Two servers with one folder and database; a killed one is replaced."""

    def __init__(self, start, folder, database):
        self._start = lambda: start(
            FAKE_SECONDS=str(TILE_SECONDS),
            SHARPLINE_JOBS__FOLDER=str(folder),
            SHARPLINE_JOBS__DATABASE=database,
            SHARPLINE_JOBS__LEASE_SECONDS="0.6",
            SHARPLINE_JOBS__HEARTBEAT_SECONDS="0.1",
            SHARPLINE_JOBS__POLL_SECONDS="0.1",
            SHARPLINE_JOBS__WORKERS="1",
        )
        self.running = [self._start(), self._start()]

    def kill_one(self):
        """Kill one with SIGKILL and start a new process in its place."""
        index = random.randrange(2)
        process, _ = self.running[index]
        process.kill()
        process.wait()
        self.running[index] = self._start()

    @property
    def urls(self):
        return [url for _, url in self.running]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "sqlite":
        (tmp_path / "jobs").mkdir()
        yield f"sqlite:///{tmp_path}/jobs/jobs.db"
        return
    reason = postgres_unavailable_reason()
    if reason:
        pytest.skip(reason)
    with postgres() as url:
        yield url


def send(replicas, method, path, **options):
    """The response of a random replica; retried when a replica is killed."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            url = random.choice(replicas.urls)
            return httpx.request(method, url + path, timeout=60, **options)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                pytest.fail(f"no replica answered {method} {path}")


def submit(replicas, picture, key):
    answer = send(
        replicas,
        "POST",
        "/v1/jobs?format=png&delete_on_fetch=true",
        content=picture,
        headers={"Idempotency-Key": key},
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def test_killed_replicas_lose_no_job_and_deliver_none_twice(
    fake_server, flat_png, tmp_path, database, soak
):
    replicas = Replicas(fake_server, tmp_path / "jobs", database)
    kills = FULL_KILLS if soak else SHORT_KILLS[sa.make_url(database).get_backend_name()]
    restarted = 0
    for number in range(kills):
        # Pictures of one value each, which identifies their results; 13 loses the device.
        values = random.sample([value for value in range(256) if value != 13], JOBS_PER_KILL)
        kill_delay_seconds = random.uniform(0, MAX_KILL_DELAY_SECONDS)
        killer = threading.Timer(kill_delay_seconds, replicas.kill_one)
        killer.start()
        keys = {value: f"picture-{number}-{value}" for value in values}
        jobs = {value: submit(replicas, flat_png(value), keys[value]) for value in values}
        for job_id in jobs.values():
            wait_for_end(replicas, job_id)
        killer.join()
        restarted += sum(attempts_of(database, job_id) > 1 for job_id in jobs.values())
        for value, job_id in jobs.items():
            # The idempotency key survives the kill and makes no second job.
            assert submit(replicas, flat_png(value), keys[value]) == job_id
            fetch_once(replicas, job_id, value)
    assert states_of(database) == {"deleted": kills * JOBS_PER_KILL}
    if soak:  # with few kills each may by chance hit an idle replica
        assert restarted > kills / 10
    print(f"{kills} kills, {kills * JOBS_PER_KILL} jobs, {restarted} of them taken over")  # noqa: T201


def wait_for_end(replicas, job_id):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        job = send(replicas, "GET", f"/v1/jobs/{job_id}?wait=10").json()
        if job["state"] == "done":
            return
        assert job["state"] in ("queued", "running"), job
        assert time.monotonic() < deadline, job


def fetch_once(replicas, job_id, value):
    """Fetch the job's own result; a second fetch fails."""
    result = send(replicas, "GET", f"/v1/jobs/{job_id}/result")
    assert result.status_code == 200
    assert np.all(decode(result.content).rgb_hwc == value)
    # It is deleted after its last byte was sent, shortly after the client received it.
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while send(replicas, "GET", f"/v1/jobs/{job_id}").json()["state"] != "deleted":
        assert time.monotonic() < deadline
    for url in replicas.urls:
        again = httpx.get(f"{url}/v1/jobs/{job_id}/result", timeout=60)
        assert (again.status_code, again.json()["type"]) == (410, "/problems/job-gone")


def attempts_of(database, job_id):
    [row] = rows(database, "SELECT attempts FROM jobs WHERE id = :id", id=job_id)
    return row[0]


def states_of(database):
    """The number of jobs in each state."""
    return dict(map(tuple, rows(database, "SELECT state, count(*) FROM jobs GROUP BY state")))


def rows(database, query, **values):
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.execute(sa.text(query), values).all()
