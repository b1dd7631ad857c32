"""Connections to the jobs database, SQLite or Postgres: reads, and writes in transactions."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from serving.jobs.rows import SteadyClock, create_all

WAIT_FOR_LOCK_SECONDS = 10.0


class Connections:
    """The database of the jobs table; safe to use from any thread and from several processes.

    `url` is a SQLAlchemy URL: `sqlite:///folder/jobs.db` or `postgresql+psycopg://host/name`.
    """

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        self.now_ms = clock or SteadyClock()
        self._url = sa.make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        if self._sqlite and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        connect = {"timeout": WAIT_FOR_LOCK_SECONDS} if self._sqlite else {}
        self._engine = sa.create_engine(self._url, connect_args=connect, pool_pre_ping=True)
        # Reads on Postgres run in autocommit mode, which saves two round trips.
        self._read_engine = self._engine
        if not self._sqlite:
            self._read_engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        if self._sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        # SQLite has one writer at a time; threads queue on this lock instead of polling the file.
        self._write_lock = threading.Lock()
        self._create()

    def close(self) -> None:
        self._engine.dispose()

    def truncate_wal(self) -> None:
        """Empty SQLite's write-ahead log, so that no deleted row is left in it."""
        if self._sqlite:
            with self._write_lock, self._engine.connect() as connection:
                connection.exec_driver_sql("COMMIT")  # a checkpoint cannot run in a transaction
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.exec_driver_sql("BEGIN")

    def _create(self) -> None:
        if self._sqlite:
            # Of replicas that start together, the first creates the tables, under the write lock.
            with self._writing() as connection:
                create_all(connection)
            return
        with self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(7_203_115)))
            create_all(connection)

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """A write transaction. A durable one survives a power cut.

        Leases need not be: after a power cut the holder is gone too, or finds its token replaced.
        """
        if not self._sqlite:
            with self._engine.begin() as connection:
                if not durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
                yield connection
            return
        with (
            self._write_lock,
            self._engine.connect() as connection,
            connection.execution_options(synchronous="FULL" if durable else "NORMAL").begin(),
        ):
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._read_engine.connect() as connection:
            yield connection


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`
    for pragma in (
        "journal_mode=WAL",
        "secure_delete=ON",  # deleted rows are overwritten
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql(f"PRAGMA synchronous={options.get('synchronous', 'FULL')}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if "synchronous" in options else "BEGIN")
