"""Blocking calls on worker threads: what they open belongs to somebody, however the wait ends.

Cancelling a coroutine does not end the thread that it waits for (`asyncio.Task.cancel` passes
through anyio's own shield). What that thread returns a moment later, an open file or a connection,
would then be nobody's.
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
    """What `call` returns, run on a worker thread.

    A coroutine that is cancelled meanwhile leaves once the call has ended, however often it is
    cancelled, so that whoever tidies up after it meets nothing that still runs; the result is then
    handed to `discard`, which closes what it holds. Raises what `call` raises, and CancelledError.
    """
    handover = _Handover(discard)
    calling = asyncio.ensure_future(
        to_thread.run_sync(lambda: handover.give(call()), limiter=limiter)
    )
    try:
        await asyncio.shield(calling)
    except BaseException:
        while not calling.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({calling})
        if not calling.cancelled():
            calling.exception()  # retrieved: who was cancelled is told of that alone
        handover.leave()
        raise
    return handover.take()


class _Handover(Generic[Result]):
    """A result on its way from a thread to a coroutine, which may leave before it comes.

    A closing event loop cancels every task, the one that waits for the thread included, so the
    thread itself has to find out that nobody waits.
    """

    def __init__(self, discard: Callable[[Result], object] | None) -> None:
        self._discard = discard
        self._lock = threading.Lock()
        self._results: list[Result] = []
        self._left = False

    def give(self, result: Result) -> None:
        """Called on the thread."""
        with self._lock:
            self._results.append(result)
            left = self._left
        if left:
            self._drop()

    def leave(self) -> None:
        """Called by a coroutine that will not take the result."""
        with self._lock:
            self._left = True
        self._drop()

    def take(self) -> Result:
        return self._results.pop()

    def _drop(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        for result in results:
            if self._discard is not None:
                self._discard(result)
