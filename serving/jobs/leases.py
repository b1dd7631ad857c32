"""Leases: which worker holds which job, and what it may write.

A lease is a random token in the job's row; its holder raises a counter, the beat, and whatever it
writes names the token. Another replica takes a job back once it has seen the same token and beat
for the lease's length on a clock of its own that cannot jump, so no replica compares its time with
another's. A holder that comes back too late finds its token gone, and nothing that it brings is
kept: a result is committed once or never.
"""

import json
import secrets
from typing import Any

import sqlalchemy as sa

from serving.jobs.connections import Connections
from serving.jobs.queries import changed, held
from serving.jobs.rows import JOBS, PICTURES, Job, Lease, State


class Leases(Connections):
    """The next job under a lease, signs of life, results and ends."""

    def claim(self) -> Lease | None:
        """The lease on the job that is next, if any waits."""
        chosen = (
            sa.select(JOBS.c.id)
            .where(JOBS.c.state == "queued")
            .order_by(JOBS.c.rank, JOBS.c.turn, JOBS.c.id)
            .limit(1)
        )
        if self._sqlite:
            with self._reading() as connection:  # an idle replica must not lock others out
                if connection.execute(chosen).first() is None:
                    return None
        token = secrets.token_hex(16)
        free = chosen.with_for_update(skip_locked=True)  # nothing on SQLite, of one writer
        taken = (
            sa.update(JOBS)
            .where(JOBS.c.id == free.scalar_subquery())
            .values(state="running", token=token, heartbeat=0, attempts=JOBS.c.attempts + 1)
            .returning(JOBS.c.id)
        )
        with self._writing(promised=False) as connection:
            job_id = connection.execute(taken).scalar()
        return None if job_id is None else Lease(job_id, token)

    def heartbeat(
        self, lease: Lease, tiles_done: int, tiles_total: int, making: str | None = None
    ) -> bool:
        """Say that the work goes on, and which blob it writes; False where the lease is lost."""
        return self._change(
            lease,
            promised=False,
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
        """Commit one picture's result or problem; False, and nothing kept, without the lease.

        `tiles` are those of the picture that were done, and all.
        """
        sign = {"heartbeat": JOBS.c.heartbeat + 1, "tiles_done": tiles[0], "tiles_total": tiles[1]}
        with self._writing() as connection:
            if not changed(connection, held(lease), **sign):
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
        hook: bool = False,
    ) -> bool:
        """End the job; its webhook, if it has one, is due from now on. False without the lease.

        Its pictures are on the disk already; an end that a power cut takes is found anew from them.
        """
        now_ms = self.now_ms()
        return self._change(
            lease,
            promised=False,
            state=state,
            token=None,
            making=None,
            finished_ms=now_ms,
            expires_ms=expires_ms,
            problem=None if problem is None else json.dumps(problem),
            webhook_due_ms=now_ms if hook else None,
        )

    def release(self, lease: Lease, *, turns: int = 0) -> bool:
        """Give the job back to the queue, `turns` later, and without counting the attempt."""
        return self._change(
            lease,
            state="queued",
            token=None,
            making=None,
            attempts=JOBS.c.attempts - 1,
            turn=JOBS.c.turn + turns,
        )

    def is_awaited(self, job: Job) -> bool:
        """Whether another job would be next if this running one had its next turn."""
        next_turn = sa.tuple_(sa.literal(job.rank), sa.literal(job.turn + 1))
        other = sa.select(JOBS.c.id).where(
            JOBS.c.state == "queued", sa.tuple_(JOBS.c.rank, JOBS.c.turn) <= next_turn
        )
        with self._reading() as connection:
            return connection.execute(other.limit(1)).first() is not None

    def running(self) -> list[tuple[Lease, int]]:
        """Every lease there is, with its beat."""
        query = sa.select(JOBS.c.id, JOBS.c.token, JOBS.c.heartbeat).where(
            JOBS.c.state == "running"
        )
        with self._reading() as connection:
            return [(Lease(row.id, row.token), row.heartbeat) for row in connection.execute(query)]

    def reclaim(self, lease: Lease, heartbeat: int) -> bool:
        """Queue a job again whose holder has been silent; False where it beat meanwhile."""
        with self._writing() as connection:
            silent = sa.and_(held(lease), JOBS.c.heartbeat == heartbeat)
            return changed(connection, silent, state="queued", token=None, making=None)

    def _change(self, lease: Lease, *, promised: bool = True, **changes: Any) -> bool:
        with self._writing(promised=promised) as connection:
            return changed(connection, held(lease), **changes)
