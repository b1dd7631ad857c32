"""The jobs table for use on the event loop, and in-process notifications of its changes."""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter
from sqlalchemy.exc import OperationalError

from serving.errors import NotReady, StorageFull
from serving.jobs.table import JobTable
from serving.threads import in_thread

Result = TypeVar("Result")

THREADS = 4  # for calls of the table


class DatabaseUnavailable(NotReady):
    """The jobs database cannot be reached now; committed changes are kept."""


class Notifier:
    """In-process publish/subscribe: `notify` sets the event of every subscriber of a name."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    def notify(self, name: str = "") -> None:
        for event in self._events.get(name, ()):
            event.set()

    @contextlib.contextmanager
    def subscribe(self, name: str = "") -> Generator[asyncio.Event]:
        """An event that every later `notify` sets."""
        event = asyncio.Event()
        self._events.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self._events[name].discard(event)
            if not self._events[name]:
                del self._events[name]


class Database:
    """Runs every call of the jobs table on one of a few worker threads."""

    def __init__(self, table: JobTable) -> None:
        self.table = table
        self._threads = CapacityLimiter(THREADS)

    async def __call__(self, call: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """The call's result. Raises DatabaseUnavailable, StorageFull, and what `call` raises.

        A cancelled caller returns only after the call has ended, so no connection is in use when
        the table is closed.
        """
        try:
            return await in_thread(partial(call, *arguments, **named), limiter=self._threads)
        except OperationalError as error:
            if _is_full(error):
                raise StorageFull("the jobs database is full") from error
            raise DatabaseUnavailable("the jobs database cannot be reached") from error


def _is_full(error: OperationalError) -> bool:
    """Whether SQLite or Postgres reports a full disk."""
    return (
        getattr(error.orig, "sqlite_errorname", "") == "SQLITE_FULL"
        or getattr(error.orig, "sqlstate", "") == "53100"
    )
