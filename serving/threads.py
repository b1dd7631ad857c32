"""Blocking calls on worker threads that leak nothing when the awaiting coroutine is cancelled.

Cancelling a coroutine does not stop the thread it waits for (`asyncio.Task.cancel` passes through
anyio's own shield). Without an owner, a file or connection that the thread then returns would stay
open.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread

Result = TypeVar("Result")


async def in_thread(
    call: Callable[[], Result],
    *,
    limiter: CapacityLimiter | None = None,
    discard: Callable[[Result], object] | None = None,
) -> Result:
    """Run `call` on a worker thread and return its result.

    A cancelled coroutine waits for the call to end, however often it is cancelled, so that no call
    is still running during clean-up; the result then goes to `discard`, which closes it. Raises
    what `call` raises, and CancelledError.
    """
    handover = _Handover(discard)
    future = asyncio.ensure_future(
        to_thread.run_sync(lambda: handover.put(call()), limiter=limiter)
    )
    try:
        await asyncio.shield(future)
    except BaseException:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # retrieved, so that asyncio does not log it
        handover.abandon()
        raise
    return handover.take()


class _Handover(Generic[Result]):
    """Passes a result from a thread to a coroutine that may be cancelled before.

    A closing event loop cancels every task, including the one that waits for the thread, so the
    thread itself checks whether its result is still awaited.
    """

    def __init__(self, discard: Callable[[Result], object] | None) -> None:
        self._discard = discard
        self._lock = threading.Lock()
        self._results: list[Result] = []
        self._abandoned = False

    def put(self, result: Result) -> None:
        """Store the result; called on the thread."""
        with self._lock:
            self._results.append(result)
            abandoned = self._abandoned
        if abandoned:
            self._discard_results()

    def abandon(self) -> None:
        """Discard the result; called by a cancelled coroutine."""
        with self._lock:
            self._abandoned = True
        self._discard_results()

    def take(self) -> Result:
        return self._results.pop()

    def _discard_results(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        for result in results:
            if self._discard is not None:
                self._discard(result)
