"""SQL statements on jobs that several parts of the table share."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from serving.jobs.rows import JOBS, PICTURES, Job, JobPicture, Lease, job_of, picture_of

MAX_QUEUE_POSITION = 1000  # counting stops there


def held_by(lease: Lease) -> sa.ColumnElement[bool]:
    """The WHERE clause for the job's row while the lease is valid."""
    return sa.and_(
        JOBS.c.id == lease.job_id, JOBS.c.token == lease.token, JOBS.c.state == "running"
    )


def update_job(connection: sa.Connection, where: sa.ColumnElement[bool], **changes: Any) -> bool:
    """Update one job's row; False if none matches `where`."""
    return connection.execute(sa.update(JOBS).where(where).values(changes)).rowcount == 1


def pictures_of(connection: sa.Connection, job_id: str) -> list[JobPicture]:
    """A job's pictures in their order."""
    query = sa.select(PICTURES).where(PICTURES.c.job_id == job_id).order_by(PICTURES.c.n)
    return [picture_of(row) for row in connection.execute(query)]


def counts_of(connection: sa.Connection, job_id: str) -> tuple[int, int]:
    """A job's finished pictures (done or failed) and all its pictures."""
    finished = sa.or_(PICTURES.c.result_bytes.is_not(None), PICTURES.c.problem.is_not(None))
    count = sa.select(sa.func.count().filter(finished), sa.func.count())
    row = connection.execute(count.where(PICTURES.c.job_id == job_id)).one()
    return row[0], row[1]


def queue_position_of(connection: sa.Connection, job: Job) -> int:
    """The job's position in the queue, from 1; at most MAX_QUEUE_POSITION."""
    before = sa.tuple_(JOBS.c.rank, JOBS.c.turn, JOBS.c.id) < sa.tuple_(
        sa.literal(job.rank), sa.literal(job.turn), sa.literal(job.id)
    )
    some = (
        sa.select(sa.literal(1))
        .select_from(JOBS)
        .where(JOBS.c.state == "queued", before)
        .limit(MAX_QUEUE_POSITION - 1)
        .subquery()
    )
    return 1 + connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()


def blobs_of(connection: sa.Connection, job_ids: Iterable[str]) -> list[str]:
    """Every input and result blob of these jobs."""
    query = sa.select(PICTURES.c.input_blob, PICTURES.c.result_blob)
    rows = connection.execute(query.where(PICTURES.c.job_id.in_(list(job_ids))))
    return [blob for row in rows for blob in row if blob is not None]


def one_job(
    connection: sa.Connection, where: sa.ColumnElement[bool], *, lock: bool = False
) -> Job | None:
    """The job that matches `where`, or None; `lock` locks its row."""
    query = sa.select(JOBS).where(where)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else job_of(row)
