"""Periodic background tasks of the server."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from serving.errors import RetryLater

log = logging.getLogger(__name__)


class BackgroundTasks:
    """Calls functions repeatedly on the event loop until the server stops."""

    def __init__(self, retry_seconds: float) -> None:
        """`retry_seconds` is the delay before a call that failed is retried."""
        self._retry_seconds = retry_seconds
        self.stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *functions: Callable[[], Awaitable[None]]) -> None:
        """Start one task for each function."""
        self._tasks = [asyncio.create_task(self._repeat(function)) for function in functions]

    async def stop(self) -> None:
        """Wait for the running calls and start no more."""
        self.stopping.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def pause(self, seconds: float) -> None:
        """Sleep, or return early when the server stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def _repeat(self, function: Callable[[], Awaitable[None]]) -> None:
        while not self.stopping.is_set():
            try:
                await function()
            except RetryLater as error:
                log.warning("jobs: %s; retrying", error)
                await self.pause(self._retry_seconds)
            except Exception:
                log.exception("jobs: a background task failed; retrying")
                await self.pause(self._retry_seconds)
