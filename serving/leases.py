"""The jobs table: who holds which job, on SQLite or Postgres, and what became of it.

A job is queued, running under a lease, or over. A lease is a random token in the job's row; its
holder raises a counter, the beat, and whatever it writes names the token. Another replica takes a
job back once it has seen the same token and beat for the lease's length on a clock of its own that
cannot jump, so no replica compares its time with another's. A holder that comes back too late
finds its token gone, and nothing that it brings is kept: a result is committed once or never.

Who is next: the highest priority, then fair turns among clients (a client's second waiting job
has its turn after everybody's first), then age. The turn is given when the job is entered, so
that a claim reads one row of one index.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from serving.errors import KeyReused, QuotaExceeded, UnknownUpload, UploadGone, UploadMismatch
from serving.keys import HIGHEST_PRIORITY

State = Literal["queued", "running", "done", "failed", "cancelled", "deleted"]
ERASED = ("cancelled", "deleted")
OVER = ("done", "failed", *ERASED)

MOST_PLACES = 1000  # that are counted for who asks for the place in the queue
MOST_WAITING = 10_000  # that are counted for the metrics
WAIT_FOR_LOCK_SECONDS = 10.0

_metadata = sa.MetaData()
_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("client", sa.String(80), nullable=False),
    sa.Column("state", sa.String(9), nullable=False),
    sa.Column("rank", sa.SmallInteger, nullable=False),  # the highest priority has the lowest
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Column("token", sa.String(32)),
    sa.Column("beat", sa.Integer, nullable=False, default=0),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("tiles_done", sa.Integer, nullable=False, default=0),
    sa.Column("tiles_total", sa.Integer, nullable=False, default=0),
    sa.Column("making", sa.String(64)),  # the result that its holder is just writing
    sa.Column("request", sa.Text),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("problem", sa.Text),
    sa.Column("receipt", sa.Text),
    sa.Column("hook_due_ms", sa.BigInteger),
    sa.Column("hook_attempts", sa.Integer, nullable=False, default=0),
    sa.Index("jobs_queue", "state", "rank", "turn", "id"),
    sa.Index("jobs_of_client", "client", "state", "rank", "turn"),
    sa.Index("jobs_expiry", "expires_ms"),
    sa.Index("jobs_key", "client", "idempotency_key", unique=True),
)
sa.Index(
    "jobs_hooks",
    _jobs.c.hook_due_ms,
    sqlite_where=_jobs.c.hook_due_ms.is_not(None),
    postgresql_where=_jobs.c.hook_due_ms.is_not(None),
)
sa.Index(
    "jobs_making",
    _jobs.c.making,
    sqlite_where=_jobs.c.making.is_not(None),
    postgresql_where=_jobs.c.making.is_not(None),
)
_pictures = sa.Table(
    "job_pictures",
    _metadata,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("input_blob", sa.String(64)),
    sa.Column("result_blob", sa.String(64)),
    sa.Column("result_bytes", sa.BigInteger),
    sa.Column("headers", sa.Text),
    sa.Column("problem", sa.Text),
    sa.Index("pictures_input", "input_blob"),
    sa.Index("pictures_result", "result_blob"),
)
_uploads = sa.Table(
    "uploads",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("client", sa.String(80), nullable=False),
    sa.Column("blob", sa.String(64), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64)),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("stored", sa.Boolean, nullable=False, default=False),
    sa.Index("uploads_blob", "blob"),
    sa.Index("uploads_expiry", "expires_ms"),
)


_NAMING = (_pictures.c.input_blob, _pictures.c.result_blob, _uploads.c.blob, _jobs.c.making)


class SteadyClock:
    """Milliseconds of the calendar as it was at the start, carried on by a clock that never jumps.

    A calendar that is set anew while the server runs makes nothing expire early or live for ever.
    """

    def __init__(
        self,
        calendar: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._offset_seconds = calendar() - monotonic()

    def __call__(self) -> int:
        return int((self._offset_seconds + self._monotonic()) * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One picture of a job: a blob, or an upload that becomes the job's."""

    blob: str | None = None
    name: str = ""
    upload: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job as its client hands it in; `fingerprint` is equal for equal requests."""

    client: str
    request: dict[str, Any]
    inputs: tuple[Input, ...]
    fingerprint: str
    expires_ms: int
    priority: int = 5
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPicture:
    """One picture of a job as it stands; exactly one of result and problem once it is over."""

    n: int
    name: str
    input_blob: str | None
    result_blob: str | None
    result_bytes: int | None
    headers: dict[str, str]
    problem: dict[str, Any] | None

    @property
    def over(self) -> bool:
        return self.result_blob is not None or self.problem is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job's row."""

    id: str
    client: str
    state: State
    rank: int
    turn: int
    created_ms: int
    expires_ms: int
    finished_ms: int | None
    attempts: int
    tiles_done: int
    tiles_total: int
    request: dict[str, Any]
    fingerprint: str
    problem: dict[str, Any] | None
    receipt: dict[str, Any] | None
    hook_attempts: int

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def erased(self) -> bool:
        """Whether its pictures are gone, or about to be."""
        return self.state in ERASED


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job, as long as the job's row names its token."""

    job_id: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A picture that was announced and may have arrived."""

    id: str
    client: str
    blob: str
    bytes: int
    sha256: str | None
    expires_ms: int
    stored: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken out of the table, and the blobs that nobody names any more."""

    job_ids: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)


def new_id(now_ms: int) -> str:
    """32 hex digits in the order of time, 80 bits of which nobody can guess."""
    return f"{now_ms:012x}{secrets.token_hex(10)}"


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
            return _one_job(connection, _jobs.c.id == job_id)

    def pictures(self, job_id: str) -> list[JobPicture]:
        """A job's pictures in their order."""
        query = sa.select(_pictures).where(_pictures.c.job_id == job_id).order_by(_pictures.c.n)
        with self._reading() as connection:
            return [_picture(row) for row in connection.execute(query)]

    def pictures_over(self, job_id: str) -> tuple[int, int]:
        """How many of a job's pictures are answered or failed, and how many it has."""
        over = sa.or_(_pictures.c.result_bytes.is_not(None), _pictures.c.problem.is_not(None))
        count = sa.select(sa.func.count().filter(over), sa.func.count())
        with self._reading() as connection:
            row = connection.execute(count.where(_pictures.c.job_id == job_id)).one()
            return row[0], row[1]

    def picture(self, job_id: str, n: int) -> JobPicture | None:
        query = sa.select(_pictures).where(_pictures.c.job_id == job_id, _pictures.c.n == n)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else _picture(row)

    def place(self, job: Job) -> int:
        """How many jobs are to run before this one, and it; at most MOST_PLACES are counted."""
        before = sa.or_(
            _jobs.c.rank < job.rank,
            sa.and_(_jobs.c.rank == job.rank, _jobs.c.turn < job.turn),
            sa.and_(_jobs.c.rank == job.rank, _jobs.c.turn == job.turn, _jobs.c.id < job.id),
        )
        some = (
            sa.select(sa.literal(1))
            .select_from(_jobs)
            .where(_jobs.c.state == "queued", before)
            .limit(MOST_PLACES - 1)
            .subquery()
        )
        with self._reading() as connection:
            return 1 + connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()

    def claim(self) -> Lease | None:
        """The lease on the job that is next, if any waits."""
        chosen = (
            sa.select(_jobs.c.id)
            .where(_jobs.c.state == "queued")
            .order_by(_jobs.c.rank, _jobs.c.turn, _jobs.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)  # nothing on SQLite, which has one writer
        )
        with self._reading() as connection:  # an idle replica must not lock others out
            if connection.execute(chosen.with_only_columns(_jobs.c.id)).first() is None:
                return None
        with self._writing(promised=False) as connection:
            job_id = connection.execute(chosen).scalar()
            if job_id is None:
                return None
            token = secrets.token_hex(16)
            changes = {
                "state": "running",
                "token": token,
                "beat": 0,
                "attempts": _jobs.c.attempts + 1,
            }
            connection.execute(sa.update(_jobs).where(_jobs.c.id == job_id).values(changes))
            return Lease(job_id, token)

    def beat(
        self, lease: Lease, tiles_done: int, tiles_total: int, making: str | None = None
    ) -> bool:
        """Say that the work goes on, and which blob it writes; False where the lease is lost."""
        return self._change(
            lease,
            promised=False,
            beat=_jobs.c.beat + 1,
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
        sign = {"beat": _jobs.c.beat + 1, "tiles_done": tiles[0], "tiles_total": tiles[1]}
        with self._writing() as connection:
            if not _changed(connection, _held(lease), **sign):
                return False
            connection.execute(
                sa.update(_pictures)
                .where(_pictures.c.job_id == lease.job_id, _pictures.c.n == n)
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
        """End the job; its webhook, if it has one, is due from now on. False without the lease."""
        now_ms = self.now_ms()
        return self._change(
            lease,
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
            attempts=_jobs.c.attempts - 1,
            turn=_jobs.c.turn + turns,
        )

    def running(self) -> list[tuple[Lease, int]]:
        """Every lease there is, with its beat."""
        query = sa.select(_jobs.c.id, _jobs.c.token, _jobs.c.beat).where(_jobs.c.state == "running")
        with self._reading() as connection:
            return [(Lease(row.id, row.token), row.beat) for row in connection.execute(query)]

    def take_back(self, lease: Lease, beat: int) -> bool:
        """Queue a job again whose holder has been silent; False where it beat meanwhile."""
        with self._writing() as connection:
            silent = sa.and_(_held(lease), _jobs.c.beat == beat)
            return _changed(connection, silent, state="queued", token=None, making=None)

    def cancel(self, job_id: str, *, expires_ms: int) -> bool:
        """Begin to erase a job; False where there is none, or its receipt is there already.

        Nobody works on it, fetches from it or is told of it any more: its lease ends here, and a
        job that was not over is cancelled. Its row goes at `expires_ms`, or earlier.
        """
        with self._writing() as connection:
            job = _one_job(connection, _jobs.c.id == job_id, lock=True)
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
            connection.execute(sa.update(_jobs).where(_jobs.c.id == job_id).values(changes))
            return True

    def blobs(self, job_id: str) -> list[str]:
        """Every blob that a job names."""
        with self._reading() as connection:
            return _blobs_of(connection, [job_id])

    def erase(self, job_id: str, *, receipt: dict[str, Any]) -> None:
        """Forget the pictures of a job that `cancel` was called for; the first receipt is kept."""
        with self._writing() as connection:
            connection.execute(sa.delete(_pictures).where(_pictures.c.job_id == job_id))
            first = sa.and_(_jobs.c.id == job_id, _jobs.c.receipt.is_(None))
            kept = sa.update(_jobs).where(first).values(receipt=json.dumps(receipt))
            connection.execute(kept)

    def drop_result(self, job_id: str, n: int) -> tuple[str | None, int]:
        """Forget one result that was fetched; its blob, and how many results are left."""
        this = sa.and_(_pictures.c.job_id == job_id, _pictures.c.n == n)
        left = sa.select(sa.func.count()).where(
            _pictures.c.job_id == job_id, _pictures.c.result_blob.is_not(None)
        )
        with self._writing() as connection:
            blob = connection.execute(sa.select(_pictures.c.result_blob).where(this)).scalar()
            connection.execute(sa.update(_pictures).where(this).values(result_blob=None))
            return blob, connection.execute(left).scalar_one()

    def expire(self, most: int) -> Removed:
        """Remove jobs and uploads whose time is over, at most so many of each."""
        with self._writing() as connection:
            now_ms = self.now_ms()
            due = sa.select(_jobs.c.id).where(_jobs.c.expires_ms <= now_ms).limit(most)
            job_ids = list(connection.execute(due).scalars())
            blobs = _blobs_of(connection, job_ids)
            late = sa.select(_uploads.c.id, _uploads.c.blob)
            late = late.where(_uploads.c.expires_ms <= now_ms).limit(most)
            uploads = connection.execute(late).all()
            connection.execute(sa.delete(_pictures).where(_pictures.c.job_id.in_(job_ids)))
            connection.execute(sa.delete(_jobs).where(_jobs.c.id.in_(job_ids)))
            gone = [row.id for row in uploads]
            connection.execute(sa.delete(_uploads).where(_uploads.c.id.in_(gone)))
            return Removed(job_ids, blobs + [row.blob for row in uploads])

    def unknown_blobs(self, blobs: Sequence[str]) -> list[str]:
        """Those of these blobs that no job and no upload names."""
        known: set[str] = set()
        with self._reading() as connection:
            for column in _NAMING:
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
        some = sa.select(sa.literal(1)).select_from(_jobs).where(_jobs.c.state == "queued")
        counted = sa.select(sa.func.count()).select_from(some.limit(MOST_WAITING).subquery())
        with self._reading() as connection:
            return connection.execute(counted).scalar_one()

    def add_upload(self, upload: Upload) -> None:
        with self._writing() as connection:
            connection.execute(sa.insert(_uploads).values(asdict(upload)))

    def upload(self, upload_id: str) -> Upload | None:
        with self._reading() as connection:
            row = connection.execute(
                sa.select(_uploads).where(_uploads.c.id == upload_id)
            ).one_or_none()
            return None if row is None else Upload(**row._mapping)

    def upload_stored(self, upload_id: str, blob: str) -> bool:
        """Remember that an upload's bytes are there, in this blob; False where others were first.

        Also for an upload that has gone meanwhile: nothing names the blob then.
        """
        waits = sa.and_(_uploads.c.id == upload_id, _uploads.c.stored.is_(False))
        with self._writing() as connection:
            kept = sa.update(_uploads).where(waits).values(stored=True, blob=blob)
            return connection.execute(kept).rowcount == 1

    def due_hooks(self, hold_ms: int, most: int = 16) -> list[Job]:
        """Jobs whose webhook is due; nobody else gets them for `hold_ms`."""
        now_ms = self.now_ms()
        due = (
            sa.select(_jobs.c.id)
            .where(_jobs.c.hook_due_ms <= now_ms)
            .order_by(_jobs.c.hook_due_ms)
            .limit(most)
        )
        with self._reading() as connection:
            if connection.execute(due).first() is None:
                return []
        with self._writing() as connection:
            ids = list(connection.execute(due.with_for_update(skip_locked=True)).scalars())
            chosen = _jobs.c.id.in_(ids)
            connection.execute(
                sa.update(_jobs)
                .where(chosen)
                .values(hook_due_ms=now_ms + hold_ms, hook_attempts=_jobs.c.hook_attempts + 1)
            )
            return [_job(row) for row in connection.execute(sa.select(_jobs).where(chosen))]

    def hook_over(self, job_id: str, *, again_ms: int | None = None) -> None:
        """A delivery is over: for good, or until `again_ms`."""
        with self._writing() as connection:
            told = sa.and_(_jobs.c.id == job_id, _jobs.c.hook_due_ms.is_not(None))
            connection.execute(sa.update(_jobs).where(told).values(hook_due_ms=again_ms))

    def _known(self, connection: sa.Connection, new: NewJob) -> Job | None:
        if new.idempotency_key is None:
            return None
        same = sa.and_(_jobs.c.client == new.client, _jobs.c.idempotency_key == new.idempotency_key)
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
        connection.execute(sa.insert(_jobs).values(row))
        connection.execute(
            sa.insert(_pictures),
            [
                {"job_id": row["id"], "n": n, "name": each.name, "input_blob": blob}
                for n, (each, blob) in enumerate(zip(new.inputs, blobs, strict=True))
            ],
        )
        job = _one_job(connection, _jobs.c.id == row["id"])
        assert job is not None
        return job

    def _require_room(self, connection: sa.Connection, client: str, most_queued: int) -> None:
        waiting = (
            sa.select(sa.literal(1))
            .select_from(_jobs)
            .where(_jobs.c.client == client, _jobs.c.state == "queued")
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
                _create_all(connection)
            return
        with self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(7_203_115)))
            _create_all(connection)

    @contextmanager
    def _writing(self, *, promised: bool = True) -> Iterator[sa.Connection]:
        if not self._sqlite:
            with self._engine.begin() as connection:
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
        with self._engine.connect() as connection:
            yield connection


def _create_all(connection: sa.Connection) -> None:
    """The tables; those that an earlier version has made get the columns that they lack."""
    inspector = sa.inspect(connection)
    for table in _metadata.tables.values():
        if inspector.has_table(table.name):
            known = {column["name"] for column in inspector.get_columns(table.name)}
            for column in table.columns:
                if column.name not in known:
                    kind = column.type.compile(connection.dialect)
                    connection.execute(
                        sa.DDL(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
                    )
    _metadata.create_all(connection)
    for table in _metadata.tables.values():
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # this module says when a transaction begins
    for pragma in (
        "journal_mode=WAL",
        "secure_delete=ON",  # what is removed is overwritten
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    # What was promised outlives a power cut; a lease may be lost in one, for its holder is as well.
    connection.exec_driver_sql(f"PRAGMA synchronous={options.get('synchronous', 'FULL')}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if "synchronous" in options else "BEGIN")


def _held(lease: Lease) -> sa.ColumnElement[bool]:
    return sa.and_(
        _jobs.c.id == lease.job_id, _jobs.c.token == lease.token, _jobs.c.state == "running"
    )


def _changed(connection: sa.Connection, where: sa.ColumnElement[bool], **changes: Any) -> bool:
    return connection.execute(sa.update(_jobs).where(where).values(changes)).rowcount == 1


def _taken(connection: sa.Connection, client: str, upload_id: str, now_ms: int) -> str:
    """The blob of an upload, which serves no second job."""
    own = sa.and_(_uploads.c.id == upload_id, _uploads.c.client == client)
    upload = connection.execute(sa.select(_uploads).where(own)).one_or_none()
    if upload is None:
        raise UnknownUpload(f"there is no upload {upload_id!r} of yours, or a job has taken it")
    if upload.expires_ms <= now_ms:
        raise UploadGone(f"upload {upload_id} has expired")
    if not upload.stored:
        raise UploadMismatch(f"the bytes of upload {upload_id} have not arrived")
    if connection.execute(sa.delete(_uploads).where(own)).rowcount != 1:
        raise UnknownUpload(f"another job has just taken upload {upload_id}")
    return upload.blob


def _next_turn(connection: sa.Connection, client: str, rank: int) -> int:
    """After this client's last waiting job, and not before anybody's who waits."""
    waiting = sa.and_(_jobs.c.state == "queued", _jobs.c.rank == rank)
    first = connection.execute(sa.select(sa.func.min(_jobs.c.turn)).where(waiting)).scalar()
    own = sa.select(sa.func.max(_jobs.c.turn)).where(waiting, _jobs.c.client == client)
    last = connection.execute(own).scalar()
    return max(first or 0, 0 if last is None else last + 1)


def _blobs_of(connection: sa.Connection, job_ids: Iterable[str]) -> list[str]:
    query = sa.select(_pictures.c.input_blob, _pictures.c.result_blob)
    rows = connection.execute(query.where(_pictures.c.job_id.in_(list(job_ids))))
    return [blob for row in rows for blob in row if blob is not None]


def _one_job(
    connection: sa.Connection, where: sa.ColumnElement[bool], *, lock: bool = False
) -> Job | None:
    query = sa.select(_jobs).where(where)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else _job(row)


def _job(row: sa.Row[Any]) -> Job:
    values = {name: row._mapping[name] for name in Job.__dataclass_fields__}
    for name in ("request", "problem", "receipt"):
        values[name] = json.loads(values[name]) if values[name] is not None else None
    values["request"] = values["request"] or {}
    return Job(**values)


def _picture(row: sa.Row[Any]) -> JobPicture:
    values = {name: row._mapping[name] for name in JobPicture.__dataclass_fields__}
    values["headers"] = json.loads(values["headers"] or "{}")
    values["problem"] = None if values["problem"] is None else json.loads(values["problem"])
    return JobPicture(**values)
