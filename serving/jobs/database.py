"""The jobs table as the event loop uses it, and how those are woken who wait for its changes."""

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

THREADS = 4  # that calls of the table wait on


class DatabaseUnavailable(NotReady):
    """The table of jobs cannot be reached now; what it was told before holds."""


class Changes:
    """Wakes those in this process who wait for something to change, by its name."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, name: str = "") -> None:
        for event in self._waiting.get(name, ()):
            event.set()

    @contextlib.contextmanager
    def listen(self, name: str = "") -> Generator[asyncio.Event]:
        """An event that is set at every change from now on."""
        event = asyncio.Event()
        self._waiting.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[name].discard(event)
            if not self._waiting[name]:
                del self._waiting[name]


class Database:
    """The table from the event loop: every call on one of a few threads."""

    def __init__(self, table: JobTable) -> None:
        self.table = table
        self._threads = CapacityLimiter(THREADS)

    async def __call__(self, call: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """What the table answers. Raises DatabaseAway, StorageFull, and what `call` raises.

        Who is cancelled leaves when the call is over, so a closed table has no connection in use.
        """
        try:
            return await in_thread(partial(call, *arguments, **named), limiter=self._threads)
        except OperationalError as error:
            if _is_full(error):
                raise StorageFull("there is no room to note this down") from error
            raise DatabaseUnavailable("the table of jobs cannot be reached") from error


def _is_full(error: OperationalError) -> bool:
    """Whether SQLite or Postgres said that the disk is full."""
    return (
        getattr(error.orig, "sqlite_errorname", "") == "SQLITE_FULL"
        or getattr(error.orig, "sqlstate", "") == "53100"
    )
