"""The jobs table, on SQLite or Postgres: jobs are added, read, erased and expired.

A job is queued, running under a lease, or finished. The queue is ordered by priority, then
round-robin among clients (a client's second queued job comes after every client's first), then by
age. A job gets its turn when it is added, so a claim reads one row of one index. A job of many
pictures takes a turn for each of them.
"""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from serving.errors import IdempotencyKeyReused, QuotaExceeded
from serving.jobs.leases import Leases
from serving.jobs.queries import blobs_of, counts_of, one_job, pictures_of, queue_position_of
from serving.jobs.rows import (
    BLOB_COLUMNS,
    JOBS,
    PICTURES,
    UPLOADS,
    Job,
    JobPicture,
    JobProgress,
    NewJob,
    RemovedJobs,
    new_id,
    picture_of,
)
from serving.jobs.upload_rows import UploadRows, consume_upload
from serving.jobs.webhook_rows import WebhookRows
from serving.requests.keys import MAX_PRIORITY

MAX_COUNTED = 10_000  # queued jobs; counting for the metrics stops there


class JobTable(Leases, UploadRows, WebhookRows):
    """The jobs database; safe to use from any thread and from several processes."""

    def add(self, new: NewJob, *, max_queued: int) -> tuple[Job, bool]:
        """Queue a job, or return the one that this idempotency key created.

        Returns the job and whether it is new. Raises IdempotencyKeyReused if the key was used for
        another request; QuotaExceeded beyond `max_queued` queued jobs of this client;
        UnknownUpload, UploadGone or UploadMismatch for an upload that is another client's, has
        expired, or has not arrived.
        """
        try:
            with self._writing() as connection:
                existing = self._existing(connection, new)
                if existing is not None:
                    return existing, False
                return self._insert(connection, new, max_queued), True
        except IntegrityError:  # on Postgres another transaction may have added the same key
            with self._writing() as connection:
                existing = self._existing(connection, new)
            if existing is None:
                raise
            return existing, False

    def get(self, job_id: str) -> Job | None:
        with self._reading() as connection:
            return one_job(connection, JOBS.c.id == job_id)

    def pictures(self, job_id: str) -> list[JobPicture]:
        """A job's pictures, in order."""
        with self._reading() as connection:
            return pictures_of(connection, job_id)

    def picture(self, job_id: str, n: int) -> JobPicture | None:
        query = sa.select(PICTURES).where(PICTURES.c.job_id == job_id, PICTURES.c.n == n)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else picture_of(row)

    def progress(self, job: Job, *, pictures: bool = True) -> JobProgress:
        """A job's progress, with its pictures or only their counts."""
        shown: list[JobPicture] = []
        with self._reading() as connection:
            if pictures and not job.erased:
                shown = pictures_of(connection, job.id)
                finished, total = sum(each.finished for each in shown), len(shown)
            else:
                finished, total = counts_of(connection, job.id)
            queue_position = queue_position_of(connection, job) if job.state == "queued" else None
        return JobProgress(
            pictures=tuple(shown), finished=finished, total=total, queue_position=queue_position
        )

    def cancel(self, job_id: str, *, expires_ms: int) -> bool:
        """Start erasing a job; False if there is none, or if it has its receipt already.

        Its lease ends, its results can no longer be fetched and its webhook is dropped; a job that
        was not finished is cancelled. The row is removed at `expires_ms` or earlier.
        """
        with self._writing() as connection:
            job = one_job(connection, JOBS.c.id == job_id, lock=True)
            if job is None or job.erased:
                return job is not None and job.receipt is None
            changes: dict[str, Any] = {
                "state": "deleted" if job.finished else "cancelled",
                "token": None,
                "making": None,
                "request": None,
                "problem": None,
                "webhook_due_ms": None,
                "expires_ms": min(job.expires_ms, expires_ms),
            }
            if not job.finished:
                changes["finished_ms"] = self.now_ms()
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(changes))
            return True

    def blobs(self, job_id: str) -> list[str]:
        """Every blob of a job."""
        with self._reading() as connection:
            return blobs_of(connection, [job_id])

    def erase(self, job_id: str, *, receipt: dict[str, Any]) -> None:
        """Delete the picture rows of a job after `cancel`; the first receipt is kept."""
        with self._writing() as connection:
            connection.execute(sa.delete(PICTURES).where(PICTURES.c.job_id == job_id))
            first = sa.and_(JOBS.c.id == job_id, JOBS.c.receipt.is_(None))
            connection.execute(sa.update(JOBS).where(first).values(receipt=json.dumps(receipt)))

    def drop_result(self, job_id: str, n: int) -> tuple[str | None, int]:
        """Clear one fetched result; returns its blob and the number of results left."""
        this = sa.and_(PICTURES.c.job_id == job_id, PICTURES.c.n == n)
        left = sa.select(sa.func.count()).where(
            PICTURES.c.job_id == job_id, PICTURES.c.result_blob.is_not(None)
        )
        with self._writing() as connection:
            blob = connection.execute(sa.select(PICTURES.c.result_blob).where(this)).scalar()
            connection.execute(sa.update(PICTURES).where(this).values(result_blob=None))
            return blob, connection.execute(left).scalar_one()

    def expire(self, limit: int) -> RemovedJobs:
        """Remove expired jobs and uploads, at most `limit` of each."""
        with self._writing() as connection:
            now_ms = self.now_ms()
            expired = sa.select(JOBS.c.id).where(JOBS.c.expires_ms <= now_ms).limit(limit)
            job_ids = list(connection.execute(expired).scalars())
            blobs = blobs_of(connection, job_ids)
            expired_uploads = sa.select(UPLOADS.c.id, UPLOADS.c.blob)
            expired_uploads = expired_uploads.where(UPLOADS.c.expires_ms <= now_ms).limit(limit)
            uploads = connection.execute(expired_uploads).all()
            connection.execute(sa.delete(PICTURES).where(PICTURES.c.job_id.in_(job_ids)))
            connection.execute(sa.delete(JOBS).where(JOBS.c.id.in_(job_ids)))
            upload_ids = [row.id for row in uploads]
            connection.execute(sa.delete(UPLOADS).where(UPLOADS.c.id.in_(upload_ids)))
            return RemovedJobs(job_ids, blobs + [row.blob for row in uploads])

    def orphan_blobs(self, blobs: Sequence[str]) -> list[str]:
        """The given blobs that no job and no upload names."""
        named: set[str] = set()
        with self._reading() as connection:
            for column in BLOB_COLUMNS:
                named.update(
                    connection.execute(sa.select(column).where(column.in_(blobs))).scalars()
                )
        return [blob for blob in blobs if blob not in named]

    def count_queued(self) -> int:
        """Jobs in the queue, at most MAX_COUNTED."""
        queued = sa.select(sa.literal(1)).select_from(JOBS).where(JOBS.c.state == "queued")
        counted = sa.select(sa.func.count()).select_from(queued.limit(MAX_COUNTED).subquery())
        with self._reading() as connection:
            return connection.execute(counted).scalar_one()

    def _existing(self, connection: sa.Connection, new: NewJob) -> Job | None:
        if new.idempotency_key is None:
            return None
        same = sa.and_(JOBS.c.client == new.client, JOBS.c.idempotency_key == new.idempotency_key)
        job = one_job(connection, same)
        if job is not None and job.fingerprint != new.fingerprint:
            raise IdempotencyKeyReused("this Idempotency-Key was used for another request")
        return job

    def _insert(self, connection: sa.Connection, new: NewJob, max_queued: int) -> Job:
        now_ms = self.now_ms()
        self._require_quota(connection, new.client, max_queued)
        blobs = [
            each.blob
            if each.upload is None
            else consume_upload(connection, new.client, each.upload, now_ms)
            for each in new.inputs
        ]
        rank = MAX_PRIORITY - new.priority
        row: dict[str, Any] = {
            "id": new_id(now_ms),
            "client": new.client,
            "state": "queued",
            "rank": rank,
            "turn": next_turn(connection, new.client, rank),
            "created_ms": now_ms,
            "expires_ms": new.expires_ms,
            "request": json.dumps(new.request),
            "idempotency_key": new.idempotency_key,
            "fingerprint": new.fingerprint,
        }
        connection.execute(sa.insert(JOBS).values(row))
        connection.execute(
            sa.insert(PICTURES),
            [
                {"job_id": row["id"], "n": n, "name": each.name, "input_blob": blob}
                for n, (each, blob) in enumerate(zip(new.inputs, blobs, strict=True))
            ],
        )
        job = one_job(connection, JOBS.c.id == row["id"])
        assert job is not None
        return job

    def _require_quota(self, connection: sa.Connection, client: str, max_queued: int) -> None:
        queued = (
            sa.select(sa.literal(1))
            .select_from(JOBS)
            .where(JOBS.c.client == client, JOBS.c.state == "queued")
            .limit(max_queued)
            .subquery()
        )
        count = connection.execute(sa.select(sa.func.count()).select_from(queued)).scalar_one()
        if count >= max_queued:
            raise QuotaExceeded(f"this client has {max_queued} queued jobs already", seconds=30)


def next_turn(connection: sa.Connection, client: str, rank: int) -> int:
    """The turn after this client's last queued job, but not before the first queued one."""
    queued = sa.and_(JOBS.c.state == "queued", JOBS.c.rank == rank)
    first = connection.execute(sa.select(sa.func.min(JOBS.c.turn)).where(queued)).scalar()
    own = sa.select(sa.func.max(JOBS.c.turn)).where(queued, JOBS.c.client == client)
    last = connection.execute(own).scalar()
    return max(first or 0, 0 if last is None else last + 1)
