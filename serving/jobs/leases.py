"""The jobs table: who holds which job, on SQLite or Postgres, and what became of it.

A job is queued, running under a lease, or over. A lease is a random token in the job's row; its
holder raises a counter, the beat, and whatever it writes names the token. Another replica takes a
job back once it has seen the same token and beat for the lease's length on a clock of its own that
cannot jump, so no replica compares its time with another's. A holder that comes back too late
finds its token gone, and nothing that it brings is kept: a result is committed once or never.

Who is next: the highest priority, then fair turns among clients (a client's second waiting job
has its turn after everybody's first), then age. The turn is given when the job is entered, so
that a claim reads one row of one index. A job of many pictures has a turn for each of them.
"""

import json
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from serving.errors import KeyReused, QuotaExceeded, UnknownUpload, UploadGone, UploadMismatch
from serving.jobs.rows import (
    JOBS,
    NAMING,
    PICTURES,
    UPLOADS,
    Job,
    JobPicture,
    Lease,
    Look,
    NewJob,
    Removed,
    State,
    SteadyClock,
    Upload,
    create_all,
    job_of,
    new_id,
    picture_of,
)
from serving.requests.keys import HIGHEST_PRIORITY

MOST_PLACES = 1000  # that are counted for who asks for the place in the queue
MOST_WAITING = 10_000  # that are counted for the metrics
WAIT_FOR_LOCK_SECONDS = 10.0


class JobTable:
    """Every statement about jobs; safe to use from any thread and from several processes.

    `url` is SQLAlchemy's, e.g. `sqlite:///folder/jobs.db` or `postgresql+psycopg://host/name`.
    """

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        self.now_ms = clock or SteadyClock()
        self._url = sa.make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        if self._sqlite and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        connect = {"timeout": WAIT_FOR_LOCK_SECONDS} if self._sqlite else {}
        self._engine = sa.create_engine(self._url, connect_args=connect, pool_pre_ping=True)
        # A look at Postgres needs no transaction, which would be two more messages.
        self._reader = self._engine
        if not self._sqlite:
            self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        if self._sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        # One writer at a time is all SQLite has; threads queue here rather than poll its file.
        self._one_writer = threading.Lock()
        self._create()

    def close(self) -> None:
        self._engine.dispose()

    def add(self, new: NewJob, *, most_queued: int) -> tuple[Job, bool]:
        """Enter a job, or find the one that the same idempotency key has made before.

        Returns the job and whether it is new. Raises KeyReused where the key came with another
        request, QuotaExceeded beyond `most_queued` waiting jobs of this client; UnknownUpload,
        UploadGone or UploadMismatch for an upload that is another's, too old, or not there yet.
        """
        try:
            with self._writing() as connection:
                known = self._known(connection, new)
                if known is not None:
                    return known, False
                return self._insert(connection, new, most_queued), True
        except IntegrityError:  # on Postgres the same key may have been entered meanwhile
            with self._writing() as connection:
                known = self._known(connection, new)
            if known is None:
                raise
            return known, False

    def get(self, job_id: str) -> Job | None:
        with self._reading() as connection:
            return _one_job(connection, JOBS.c.id == job_id)

    def pictures(self, job_id: str) -> list[JobPicture]:
        """A job's pictures in their order."""
        with self._reading() as connection:
            return _pictures_of(connection, job_id)

    def picture(self, job_id: str, n: int) -> JobPicture | None:
        query = sa.select(PICTURES).where(PICTURES.c.job_id == job_id, PICTURES.c.n == n)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else picture_of(row)

    def look(self, job: Job, *, pictures: bool = True) -> Look:
        """What there is to show of a job, with its pictures or their numbers alone."""
        shown: list[JobPicture] = []
        with self._reading() as connection:
            if pictures and not job.erased:
                shown = _pictures_of(connection, job.id)
                over, total = sum(each.over for each in shown), len(shown)
            else:
                over, total = _counts_of(connection, job.id)
            place = _place_of(connection, job) if job.state == "queued" else None
        return Look(pictures=tuple(shown), over=over, total=total, place=place)

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
            .values(state="running", token=token, beat=0, attempts=JOBS.c.attempts + 1)
            .returning(JOBS.c.id)
        )
        with self._writing(promised=False) as connection:
            job_id = connection.execute(taken).scalar()
        return None if job_id is None else Lease(job_id, token)

    def beat(
        self, lease: Lease, tiles_done: int, tiles_total: int, making: str | None = None
    ) -> bool:
        """Say that the work goes on, and which blob it writes; False where the lease is lost."""
        return self._change(
            lease,
            promised=False,
            beat=JOBS.c.beat + 1,
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
        sign = {"beat": JOBS.c.beat + 1, "tiles_done": tiles[0], "tiles_total": tiles[1]}
        with self._writing() as connection:
            if not _changed(connection, _held(lease), **sign):
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
            hook_due_ms=now_ms if hook else None,
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
        query = sa.select(JOBS.c.id, JOBS.c.token, JOBS.c.beat).where(JOBS.c.state == "running")
        with self._reading() as connection:
            return [(Lease(row.id, row.token), row.beat) for row in connection.execute(query)]

    def take_back(self, lease: Lease, beat: int) -> bool:
        """Queue a job again whose holder has been silent; False where it beat meanwhile."""
        with self._writing() as connection:
            silent = sa.and_(_held(lease), JOBS.c.beat == beat)
            return _changed(connection, silent, state="queued", token=None, making=None)

    def cancel(self, job_id: str, *, expires_ms: int) -> bool:
        """Begin to erase a job; False where there is none, or its receipt is there already.

        Nobody works on it, fetches from it or is told of it any more: its lease ends here, and a
        job that was not over is cancelled. Its row goes at `expires_ms`, or earlier.
        """
        with self._writing() as connection:
            job = _one_job(connection, JOBS.c.id == job_id, lock=True)
            if job is None or job.erased:
                return job is not None and job.receipt is None
            changes: dict[str, Any] = {
                "state": "deleted" if job.over else "cancelled",
                "token": None,
                "making": None,
                "request": None,
                "problem": None,
                "hook_due_ms": None,
                "expires_ms": min(job.expires_ms, expires_ms),
            }
            if not job.over:
                changes["finished_ms"] = self.now_ms()
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(changes))
            return True

    def blobs(self, job_id: str) -> list[str]:
        """Every blob that a job names."""
        with self._reading() as connection:
            return _blobs_of(connection, [job_id])

    def erase(self, job_id: str, *, receipt: dict[str, Any]) -> None:
        """Forget the pictures of a job that `cancel` was called for; the first receipt is kept."""
        with self._writing() as connection:
            connection.execute(sa.delete(PICTURES).where(PICTURES.c.job_id == job_id))
            first = sa.and_(JOBS.c.id == job_id, JOBS.c.receipt.is_(None))
            kept = sa.update(JOBS).where(first).values(receipt=json.dumps(receipt))
            connection.execute(kept)

    def drop_result(self, job_id: str, n: int) -> tuple[str | None, int]:
        """Forget one result that was fetched; its blob, and how many results are left."""
        this = sa.and_(PICTURES.c.job_id == job_id, PICTURES.c.n == n)
        left = sa.select(sa.func.count()).where(
            PICTURES.c.job_id == job_id, PICTURES.c.result_blob.is_not(None)
        )
        with self._writing() as connection:
            blob = connection.execute(sa.select(PICTURES.c.result_blob).where(this)).scalar()
            connection.execute(sa.update(PICTURES).where(this).values(result_blob=None))
            return blob, connection.execute(left).scalar_one()

    def expire(self, most: int) -> Removed:
        """Remove jobs and uploads whose time is over, at most so many of each."""
        with self._writing() as connection:
            now_ms = self.now_ms()
            due = sa.select(JOBS.c.id).where(JOBS.c.expires_ms <= now_ms).limit(most)
            job_ids = list(connection.execute(due).scalars())
            blobs = _blobs_of(connection, job_ids)
            late = sa.select(UPLOADS.c.id, UPLOADS.c.blob)
            late = late.where(UPLOADS.c.expires_ms <= now_ms).limit(most)
            uploads = connection.execute(late).all()
            connection.execute(sa.delete(PICTURES).where(PICTURES.c.job_id.in_(job_ids)))
            connection.execute(sa.delete(JOBS).where(JOBS.c.id.in_(job_ids)))
            gone = [row.id for row in uploads]
            connection.execute(sa.delete(UPLOADS).where(UPLOADS.c.id.in_(gone)))
            return Removed(job_ids, blobs + [row.blob for row in uploads])

    def unknown_blobs(self, blobs: Sequence[str]) -> list[str]:
        """Those of these blobs that no job and no upload names."""
        known: set[str] = set()
        with self._reading() as connection:
            for column in NAMING:
                known.update(
                    connection.execute(sa.select(column).where(column.in_(blobs))).scalars()
                )
        return [blob for blob in blobs if blob not in known]

    def forget(self) -> None:
        """Let SQLite's write-ahead log hold nothing of what was removed."""
        if self._sqlite:
            with self._one_writer, self._engine.connect() as connection:
                connection.exec_driver_sql("COMMIT")  # a checkpoint runs in no transaction
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.exec_driver_sql("BEGIN")

    def waiting(self) -> int:
        """Jobs in the queue; at most MOST_WAITING are counted."""
        some = sa.select(sa.literal(1)).select_from(JOBS).where(JOBS.c.state == "queued")
        counted = sa.select(sa.func.count()).select_from(some.limit(MOST_WAITING).subquery())
        with self._reading() as connection:
            return connection.execute(counted).scalar_one()

    def add_upload(self, upload: Upload) -> None:
        with self._writing() as connection:
            connection.execute(sa.insert(UPLOADS).values(asdict(upload)))

    def upload(self, upload_id: str) -> Upload | None:
        with self._reading() as connection:
            row = connection.execute(
                sa.select(UPLOADS).where(UPLOADS.c.id == upload_id)
            ).one_or_none()
            return None if row is None else Upload(**row._mapping)

    def upload_stored(self, upload_id: str, blob: str) -> bool:
        """Remember that an upload's bytes are there, in this blob; False where others were first.

        Also for an upload that has gone meanwhile: nothing names the blob then.
        """
        waits = sa.and_(UPLOADS.c.id == upload_id, UPLOADS.c.stored.is_(False))
        with self._writing() as connection:
            kept = sa.update(UPLOADS).where(waits).values(stored=True, blob=blob)
            return connection.execute(kept).rowcount == 1

    def due_hooks(self, hold_ms: int, most: int = 16) -> list[Job]:
        """Jobs whose webhook is due; nobody else gets them for `hold_ms`."""
        now_ms = self.now_ms()
        due = (
            sa.select(JOBS.c.id)
            .where(JOBS.c.hook_due_ms <= now_ms)
            .order_by(JOBS.c.hook_due_ms)
            .limit(most)
        )
        with self._reading() as connection:
            if connection.execute(due).first() is None:
                return []
        with self._writing() as connection:
            ids = list(connection.execute(due.with_for_update(skip_locked=True)).scalars())
            chosen = JOBS.c.id.in_(ids)
            connection.execute(
                sa.update(JOBS)
                .where(chosen)
                .values(hook_due_ms=now_ms + hold_ms, hook_attempts=JOBS.c.hook_attempts + 1)
            )
            return [job_of(row) for row in connection.execute(sa.select(JOBS).where(chosen))]

    def hook_over(self, job_id: str, *, again_ms: int | None = None) -> None:
        """A delivery is over: for good, or until `again_ms`."""
        with self._writing() as connection:
            told = sa.and_(JOBS.c.id == job_id, JOBS.c.hook_due_ms.is_not(None))
            connection.execute(sa.update(JOBS).where(told).values(hook_due_ms=again_ms))

    def _known(self, connection: sa.Connection, new: NewJob) -> Job | None:
        if new.idempotency_key is None:
            return None
        same = sa.and_(JOBS.c.client == new.client, JOBS.c.idempotency_key == new.idempotency_key)
        job = _one_job(connection, same)
        if job is not None and job.fingerprint != new.fingerprint:
            raise KeyReused("this Idempotency-Key came with another request before")
        return job

    def _insert(self, connection: sa.Connection, new: NewJob, most_queued: int) -> Job:
        now_ms = self.now_ms()
        self._require_room(connection, new.client, most_queued)
        blobs = [
            each.blob
            if each.upload is None
            else _taken(connection, new.client, each.upload, now_ms)
            for each in new.inputs
        ]
        rank = HIGHEST_PRIORITY - new.priority
        row: dict[str, Any] = {
            "id": new_id(now_ms),
            "client": new.client,
            "state": "queued",
            "rank": rank,
            "turn": _next_turn(connection, new.client, rank),
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
        job = _one_job(connection, JOBS.c.id == row["id"])
        assert job is not None
        return job

    def _require_room(self, connection: sa.Connection, client: str, most_queued: int) -> None:
        waiting = (
            sa.select(sa.literal(1))
            .select_from(JOBS)
            .where(JOBS.c.client == client, JOBS.c.state == "queued")
            .limit(most_queued)
            .subquery()
        )
        count = connection.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one()
        if count >= most_queued:
            raise QuotaExceeded(f"{most_queued} jobs of this client wait already", seconds=30)

    def _change(self, lease: Lease, *, promised: bool = True, **changes: Any) -> bool:
        with self._writing(promised=promised) as connection:
            return _changed(connection, _held(lease), **changes)

    def _create(self) -> None:
        if self._sqlite:
            # Replicas that start together: the first makes the tables, under the write lock.
            with self._writing() as connection:
                create_all(connection)
            return
        with self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(7_203_115)))
            create_all(connection)

    @contextmanager
    def _writing(self, *, promised: bool = True) -> Iterator[sa.Connection]:
        """A transaction. What was promised outlives a power cut; a lease may be lost in one.

        Its holder is gone as well then, or finds that its token is.
        """
        if not self._sqlite:
            with self._engine.begin() as connection:
                if not promised:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
                yield connection
            return
        with (
            self._one_writer,
            self._engine.connect() as connection,
            connection.execution_options(synchronous="FULL" if promised else "NORMAL").begin(),
        ):
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._reader.connect() as connection:
            yield connection


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # this module says when a transaction begins
    for pragma in (
        "journal_mode=WAL",
        "secure_delete=ON",  # what is removed is overwritten
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql(f"PRAGMA synchronous={options.get('synchronous', 'FULL')}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if "synchronous" in options else "BEGIN")


def _held(lease: Lease) -> sa.ColumnElement[bool]:
    return sa.and_(
        JOBS.c.id == lease.job_id, JOBS.c.token == lease.token, JOBS.c.state == "running"
    )


def _changed(connection: sa.Connection, where: sa.ColumnElement[bool], **changes: Any) -> bool:
    return connection.execute(sa.update(JOBS).where(where).values(changes)).rowcount == 1


def _taken(connection: sa.Connection, client: str, upload_id: str, now_ms: int) -> str:
    """The blob of an upload, which serves no second job."""
    own = sa.and_(UPLOADS.c.id == upload_id, UPLOADS.c.client == client)
    upload = connection.execute(sa.select(UPLOADS).where(own)).one_or_none()
    if upload is None:
        raise UnknownUpload(f"there is no upload {upload_id!r} of yours, or a job has taken it")
    if upload.expires_ms <= now_ms:
        raise UploadGone(f"upload {upload_id} has expired")
    if not upload.stored:
        raise UploadMismatch(f"the bytes of upload {upload_id} have not arrived")
    if connection.execute(sa.delete(UPLOADS).where(own)).rowcount != 1:
        raise UnknownUpload(f"another job has just taken upload {upload_id}")
    return upload.blob


def _next_turn(connection: sa.Connection, client: str, rank: int) -> int:
    """After this client's last waiting job, and not before anybody's who waits."""
    waiting = sa.and_(JOBS.c.state == "queued", JOBS.c.rank == rank)
    first = connection.execute(sa.select(sa.func.min(JOBS.c.turn)).where(waiting)).scalar()
    own = sa.select(sa.func.max(JOBS.c.turn)).where(waiting, JOBS.c.client == client)
    last = connection.execute(own).scalar()
    return max(first or 0, 0 if last is None else last + 1)


def _pictures_of(connection: sa.Connection, job_id: str) -> list[JobPicture]:
    query = sa.select(PICTURES).where(PICTURES.c.job_id == job_id).order_by(PICTURES.c.n)
    return [picture_of(row) for row in connection.execute(query)]


def _counts_of(connection: sa.Connection, job_id: str) -> tuple[int, int]:
    """Pictures of a job that are answered or failed, and all."""
    over = sa.or_(PICTURES.c.result_bytes.is_not(None), PICTURES.c.problem.is_not(None))
    count = sa.select(sa.func.count().filter(over), sa.func.count())
    row = connection.execute(count.where(PICTURES.c.job_id == job_id)).one()
    return row[0], row[1]


def _place_of(connection: sa.Connection, job: Job) -> int:
    """How many jobs are to run before this one, and it; at most MOST_PLACES are counted."""
    before = sa.tuple_(JOBS.c.rank, JOBS.c.turn, JOBS.c.id) < sa.tuple_(
        sa.literal(job.rank), sa.literal(job.turn), sa.literal(job.id)
    )
    some = (
        sa.select(sa.literal(1))
        .select_from(JOBS)
        .where(JOBS.c.state == "queued", before)
        .limit(MOST_PLACES - 1)
        .subquery()
    )
    return 1 + connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()


def _blobs_of(connection: sa.Connection, job_ids: Iterable[str]) -> list[str]:
    query = sa.select(PICTURES.c.input_blob, PICTURES.c.result_blob)
    rows = connection.execute(query.where(PICTURES.c.job_id.in_(list(job_ids))))
    return [blob for row in rows for blob in row if blob is not None]


def _one_job(
    connection: sa.Connection, where: sa.ColumnElement[bool], *, lock: bool = False
) -> Job | None:
    query = sa.select(JOBS).where(where)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else job_of(row)
