"""Jobs: claim and status times on a large table, and a job's overhead over a synchronous request.

    python bench/jobs.py [--only sqlite|postgres|overhead ...] [--rows 1000000] [--rounds 500]

A table of `--rows` jobs of a hundred clients, most of them finished, is built on SQLite and, where
Debian's package is installed, on a temporary Postgres; then claims, status look-ups and inserts are
timed one by one. The overhead is the time from sending a picture to receiving the output, as a job
(create, wait, fetch) minus as a request, for the same pictures.
"""

import argparse
import json
import secrets
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import sqlalchemy as sa
from postgres import postgres, postgres_unavailable_reason
from serving_common import ours, photo_like

from serving.jobs.rows import JOBS, PICTURES, Input, NewJob
from serving.jobs.table import JobTable
from superres.common.console import emit, show

QUEUED_SHARE = 0.1
CLIENTS = 100
BATCH = 20_000
PARTS = ("sqlite", "postgres", "overhead")


def main() -> None:
    arguments = _arguments()
    results: dict[str, object] = {}
    if "sqlite" in arguments.only:
        with TemporaryDirectory() as folder:
            results["sqlite"] = table_times(f"sqlite:///{folder}/jobs.db", arguments)
    reason = postgres_unavailable_reason()
    if "postgres" in arguments.only and reason is not None:
        show(f"Postgres skipped: it {reason}")
    elif "postgres" in arguments.only:
        with postgres() as url:
            results["postgres"] = table_times(url, arguments)
    if "overhead" in arguments.only:
        results["overhead"] = overhead(arguments)
    emit(results)


def table_times(url: str, arguments: argparse.Namespace) -> dict[str, float]:
    """p50 and p99 of each operation, in milliseconds."""
    table = JobTable(url)
    began_seconds = time.perf_counter()
    fill(url, arguments.rows)
    name = url.partition(":")[0].partition("+")[0]
    show(f"{name}: {arguments.rows:,} rows in {time.perf_counter() - began_seconds:.0f} s")
    ids = some_ids(url, arguments.rounds)
    steps: dict[str, Callable[[int], object]] = {
        "status": lambda n: status(table, ids[n]),
        "enter": lambda n: table.add(make_job(n), max_queued=10**9),
        "claim": lambda n: table.claim(),
    }
    quantiles: dict[str, float] = {}
    for step, run in steps.items():
        times_ms = [timed_ms(partial(run, n)) for n in range(arguments.rounds)]
        for percent in (50, 99):
            quantiles[f"{step}_p{percent}_ms"] = round(float(np.percentile(times_ms, percent)), 2)
    show("  " + "  ".join(f"{step} {value} ms" for step, value in quantiles.items()))
    table.close()
    return quantiles


def status(table: JobTable, job_id: str) -> None:
    """The queries of a job's status response."""
    job = table.get(job_id)
    assert job is not None
    table.progress(job)


def fill(url: str, rows: int) -> None:
    """Insert `rows` jobs, a tenth of them queued."""
    engine = sa.create_engine(url)
    now_ms = int(time.time() * 1000)
    with engine.begin() as connection:
        for start in range(0, rows, BATCH):
            count = min(BATCH, rows - start)
            batch = [make_row(start + n, rows, now_ms) for n in range(count)]
            connection.execute(sa.insert(JOBS), batch)
            connection.execute(
                sa.insert(PICTURES),
                [{"job_id": row["id"], "n": 0, "name": "x.png"} for row in batch],
            )
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


def make_row(n: int, rows: int, now_ms: int) -> dict[str, object]:
    queued = n >= rows * (1 - QUEUED_SHARE)
    return {
        "id": f"{now_ms - rows + n:012x}{secrets.token_hex(10)}",
        "client": f"key:{n % CLIENTS:012x}",
        "state": "queued" if queued else "done",
        "rank": 4,
        "turn": n // CLIENTS,
        "created_ms": now_ms,
        "expires_ms": now_ms + 3_600_000,
        "heartbeat": 0,
        "attempts": 0,
        "tiles_done": 0,
        "tiles_total": 0,
        "request": json.dumps({"options": {}, "accept": ""}),
        "fingerprint": "0" * 64,
        "webhook_attempts": 0,
    }


def some_ids(url: str, count: int) -> list[str]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id FROM jobs ORDER BY fingerprint, id"))
        ids = [row[0] for row in rows]
    engine.dispose()
    return [str(each) for each in np.random.default_rng(0).choice(ids, count)]


def make_job(n: int) -> NewJob:
    return NewJob(
        client=f"key:{n % CLIENTS:012x}",
        request={"options": {}, "accept": ""},
        inputs=(Input(blob=secrets.token_hex(16)),),
        fingerprint=secrets.token_hex(32),
        expires_ms=2**50,
        idempotency_key=secrets.token_hex(16),
    )


def timed_ms(run: Callable[[], object]) -> float:
    began_seconds = time.perf_counter()
    run()
    return (time.perf_counter() - began_seconds) * 1000


def overhead(arguments: argparse.Namespace) -> dict[str, float]:
    """Median latencies in milliseconds, and the median of the differences."""
    with TemporaryDirectory() as folder:
        count = arguments.pictures + 3
        jobs_folder = str(Path(folder) / "jobs")
        with (
            ours(arguments.bundle, SHARPLINE_JOBS__FOLDER=jobs_folder) as server,
            httpx.Client(base_url=server.url, timeout=120) as client,
        ):
            pictures = [photo_like(n, arguments.side, arguments.side) for n in range(count)]
            pairs = [
                tuple(timed_ms(partial(send, client, each)) for send in (send_once, send_as_job))
                for each in pictures
            ][3:]
    sync, as_job = (statistics.median(column) for column in zip(*pairs, strict=True))
    difference = statistics.median(job - once for once, job in pairs)
    show(f"synchronous {sync:.1f} ms, as a job {as_job:.1f} ms: {difference:.1f} ms more")
    return {
        "at_once_ms": round(sync, 1),
        "as_job_ms": round(as_job, 1),
        "overhead_ms": round(difference, 1),
    }


def send_once(client: httpx.Client, picture: bytes) -> None:
    client.post("/v1/enhance", content=picture).raise_for_status()


def send_as_job(client: httpx.Client, picture: bytes) -> None:
    job = client.post("/v1/jobs", content=picture).raise_for_status().json()["id"]
    state = client.get(f"/v1/jobs/{job}", params={"wait": 60}).raise_for_status().json()["state"]
    if state != "done":
        raise SystemExit(f"the job is {state}")
    client.get(f"/v1/jobs/{job}/result").raise_for_status()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=500, help="of each operation")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--side", type=int, default=128, help="pixels of a picture's side")
    parser.add_argument("--bundle", type=Path, default=Path("models/compact_x4"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
