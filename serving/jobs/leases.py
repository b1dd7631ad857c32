"""Leases: which worker holds which job, and what it may write.

A lease is a random token in the job's row. Its holder increments a heartbeat counter, and every
write names the token. A replica reclaims a job after it has seen the same token and heartbeat for
the lease's length on its own monotonic clock, so replicas never compare clocks. A holder that
returns too late finds its token replaced and its writes rejected: a result is committed at most
once.
"""

import json
import secrets
from typing import Any

import sqlalchemy as sa

from serving.jobs.connections import Connections
from serving.jobs.queries import held_by, update_job
from serving.jobs.rows import JOBS, PICTURES, Job, Lease, State


class Leases(Connections):
    """Claims, heartbeats, results and the ends of leases."""

    def claim(self) -> Lease | None:
        """Lease the next job; None if the queue is empty."""
        next_job = (
            sa.select(JOBS.c.id)
            .where(JOBS.c.state == "queued")
            .order_by(JOBS.c.rank, JOBS.c.turn, JOBS.c.id)
            .limit(1)
        )
        if self._sqlite:
            with self._reading() as connection:  # so that idle replicas take no write lock
                if connection.execute(next_job).first() is None:
                    return None
        token = secrets.token_hex(16)
        unlocked = next_job.with_for_update(skip_locked=True)  # no effect on SQLite
        claimed = (
            sa.update(JOBS)
            .where(JOBS.c.id == unlocked.scalar_subquery())
            .values(state="running", token=token, heartbeat=0, attempts=JOBS.c.attempts + 1)
            .returning(JOBS.c.id)
        )
        with self._writing(durable=False) as connection:
            job_id = connection.execute(claimed).scalar()
        return None if job_id is None else Lease(job_id, token)

    def heartbeat(
        self, lease: Lease, tiles_done: int, tiles_total: int, making: str | None = None
    ) -> bool:
        """Renew the lease and record progress; False if the lease is lost.

        `making` is the result blob that is being written.
        """
        return self._update(
            lease,
            durable=False,
            heartbeat=JOBS.c.heartbeat + 1,
            tiles_done=tiles_done,
            tiles_total=tiles_total,
            making=making,
        )

    def finish_picture(
        self,
        lease: Lease,
        n: int,
        *,
        blob: str | None = None,
        size: int | None = None,
        headers: dict[str, str] | None = None,
        problem: dict[str, Any] | None = None,
        tiles: tuple[int, int] = (0, 0),
    ) -> bool:
        """Commit one picture's result or problem; without the lease write nothing, return False.

        `tiles` are the picture's finished tiles and all its tiles.
        """
        progress = {
            "heartbeat": JOBS.c.heartbeat + 1,
            "tiles_done": tiles[0],
            "tiles_total": tiles[1],
        }
        with self._writing() as connection:
            if not update_job(connection, held_by(lease), **progress):
                return False
            connection.execute(
                sa.update(PICTURES)
                .where(PICTURES.c.job_id == lease.job_id, PICTURES.c.n == n)
                .values(
                    input_blob=None,
                    result_blob=blob,
                    result_bytes=size,
                    headers=json.dumps(headers or {}),
                    problem=None if problem is None else json.dumps(problem),
                )
            )
            return True

    def finish(
        self,
        lease: Lease,
        state: State,
        *,
        expires_ms: int,
        problem: dict[str, Any] | None = None,
        webhook: bool = False,
    ) -> bool:
        """End the job and make its webhook due, if it has one. False without the lease.

        The pictures are durable already: if a power cut loses this write, the job is finished
        again from them.
        """
        now_ms = self.now_ms()
        return self._update(
            lease,
            durable=False,
            state=state,
            token=None,
            making=None,
            finished_ms=now_ms,
            expires_ms=expires_ms,
            problem=None if problem is None else json.dumps(problem),
            webhook_due_ms=now_ms if webhook else None,
        )

    def release(self, lease: Lease, *, turns: int = 0) -> bool:
        """Put the job back into the queue, `turns` later, without counting the attempt."""
        return self._update(
            lease,
            state="queued",
            token=None,
            making=None,
            attempts=JOBS.c.attempts - 1,
            turn=JOBS.c.turn + turns,
        )

    def should_preempt(self, job: Job) -> bool:
        """Whether a queued job comes before this running job's next turn."""
        next_turn = sa.tuple_(sa.literal(job.rank), sa.literal(job.turn + 1))
        other = sa.select(JOBS.c.id).where(
            JOBS.c.state == "queued", sa.tuple_(JOBS.c.rank, JOBS.c.turn) <= next_turn
        )
        with self._reading() as connection:
            return connection.execute(other.limit(1)).first() is not None

    def running(self) -> list[tuple[Lease, int]]:
        """Every current lease with its heartbeat."""
        query = sa.select(JOBS.c.id, JOBS.c.token, JOBS.c.heartbeat).where(
            JOBS.c.state == "running"
        )
        with self._reading() as connection:
            return [(Lease(row.id, row.token), row.heartbeat) for row in connection.execute(query)]

    def reclaim(self, lease: Lease, heartbeat: int) -> bool:
        """Queue a job again whose heartbeat stopped; False if there was a heartbeat meanwhile."""
        with self._writing() as connection:
            silent = sa.and_(held_by(lease), JOBS.c.heartbeat == heartbeat)
            return update_job(connection, silent, state="queued", token=None, making=None)

    def _update(self, lease: Lease, *, durable: bool = True, **changes: Any) -> bool:
        with self._writing(durable=durable) as connection:
            return update_job(connection, held_by(lease), **changes)
