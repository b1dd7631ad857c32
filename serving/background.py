"""Work that is done again and again beside the requests, until the server leaves."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from serving.errors import RetryLater

log = logging.getLogger(__name__)


class BackgroundTasks:
    """Turns that begin anew as long as the server stays; on the event loop."""

    def __init__(self, fault_seconds: float) -> None:
        """`fault_seconds` pass before a turn that failed is tried again."""
        self._fault_seconds = fault_seconds
        self.leaving = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *turns: Callable[[], Awaitable[None]]) -> None:
        """Begin with every turn."""
        self._tasks = [asyncio.create_task(self._forever(turn)) for turn in turns]

    async def stop(self) -> None:
        """Let every turn come to its end, and begin none."""
        self.leaving.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than the server stays."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.leaving.wait(), seconds)

    async def _forever(self, turn: Callable[[], Awaitable[None]]) -> None:
        while not self.leaving.is_set():
            try:
                await turn()
            except RetryLater as error:
                log.warning("jobs: %s; it is tried again", error)
                await self.pause(self._fault_seconds)
            except Exception:
                log.exception("jobs: a turn failed and is tried again")
                await self.pause(self._fault_seconds)
