"""The jobs database's tables and rows: jobs, their pictures, and uploads without a job."""

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

State = Literal["queued", "running", "done", "failed", "cancelled", "deleted"]
ERASED = ("cancelled", "deleted")
FINISHED = ("done", "failed", *ERASED)

METADATA = sa.MetaData()
# A column with a `key` keeps the name that it has in databases of earlier versions.
JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("client", sa.String(80), nullable=False),
    sa.Column("state", sa.String(9), nullable=False),
    sa.Column("rank", sa.SmallInteger, nullable=False),  # 0 is the highest priority
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Column("token", sa.String(32)),
    sa.Column("beat", sa.Integer, key="heartbeat", nullable=False, default=0),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("tiles_done", sa.Integer, nullable=False, default=0),
    sa.Column("tiles_total", sa.Integer, nullable=False, default=0),
    sa.Column("making", sa.String(64)),  # the result blob that the lease holder is writing
    sa.Column("request", sa.Text),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("problem", sa.Text),
    sa.Column("receipt", sa.Text),
    sa.Column("hook_due_ms", sa.BigInteger, key="webhook_due_ms"),
    sa.Column("hook_attempts", sa.Integer, key="webhook_attempts", nullable=False, default=0),
    sa.Index("jobs_queue", "state", "rank", "turn", "id"),
    sa.Index("jobs_of_client", "client", "state", "rank", "turn"),
    sa.Index("jobs_expiry", "expires_ms"),
    sa.Index("jobs_key", "client", "idempotency_key", unique=True),
)
sa.Index(
    "jobs_hooks",
    JOBS.c.webhook_due_ms,
    sqlite_where=JOBS.c.webhook_due_ms.is_not(None),
    postgresql_where=JOBS.c.webhook_due_ms.is_not(None),
)
sa.Index(
    "jobs_making",
    JOBS.c.making,
    sqlite_where=JOBS.c.making.is_not(None),
    postgresql_where=JOBS.c.making.is_not(None),
)
PICTURES = sa.Table(
    "job_pictures",
    METADATA,
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
UPLOADS = sa.Table(
    "uploads",
    METADATA,
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


BLOB_COLUMNS = (PICTURES.c.input_blob, PICTURES.c.result_blob, UPLOADS.c.blob, JOBS.c.making)


class SteadyClock:
    """Unix time in milliseconds: the wall clock at the start, continued by a monotonic clock.

    So nothing expires early or late when the wall clock is set while the server runs.
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
    """One input picture of a new job: a blob, or the id of an upload."""

    blob: str | None = None
    name: str = ""
    upload: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be queued; equal requests have equal `fingerprint`s."""

    client: str
    request: dict[str, Any]
    inputs: tuple[Input, ...]
    fingerprint: str
    expires_ms: int
    priority: int = 5
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPicture:
    """One picture of a job; a finished one has either a result or a problem.

    A result that was fetched and deleted keeps its `result_bytes`.
    """

    n: int
    name: str
    input_blob: str | None
    result_blob: str | None
    result_bytes: int | None
    headers: dict[str, str]
    problem: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        return self.result_bytes is not None or self.problem is not None


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
    webhook_attempts: int

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def erased(self) -> bool:
        """Whether its pictures are deleted, or about to be."""
        return self.state in ERASED


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job while the job's row has this token."""

    job_id: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload; `stored` says whether its bytes have arrived."""

    id: str
    client: str
    blob: str
    bytes: int
    sha256: str | None
    expires_ms: int
    stored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """A job's progress: finished pictures, all pictures, and the position in the queue.

    `queue_position` is None for a job that is not queued.
    """

    pictures: tuple[JobPicture, ...]
    finished: int
    total: int
    queue_position: int | None


@dataclass(frozen=True, slots=True)
class RemovedJobs:
    """Jobs removed from the table, and the blobs that are no longer named."""

    job_ids: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)


def new_id(now_ms: int) -> str:
    """32 hex digits, sortable by time, with 80 random bits."""
    return f"{now_ms:012x}{secrets.token_hex(10)}"


def create_all(connection: sa.Connection) -> None:
    """Create the tables; add missing columns to tables of an earlier version."""
    inspector = sa.inspect(connection)
    for table in METADATA.tables.values():
        if inspector.has_table(table.name):
            existing = {column["name"] for column in inspector.get_columns(table.name)}
            for column in table.columns:
                if column.name not in existing:
                    kind = column.type.compile(connection.dialect)
                    connection.execute(
                        sa.DDL(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
                    )
    METADATA.create_all(connection)
    for table in METADATA.tables.values():
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def job_of(row: sa.Row[Any]) -> Job:
    values = {name: row._mapping[name] for name in Job.__dataclass_fields__}
    for name in ("request", "problem", "receipt"):
        values[name] = json.loads(values[name]) if values[name] is not None else None
    values["request"] = values["request"] or {}
    return Job(**values)


def picture_of(row: sa.Row[Any]) -> JobPicture:
    values = {name: row._mapping[name] for name in JobPicture.__dataclass_fields__}
    values["headers"] = json.loads(values["headers"] or "{}")
    values["problem"] = None if values["problem"] is None else json.loads(values["problem"])
    return JobPicture(**values)
