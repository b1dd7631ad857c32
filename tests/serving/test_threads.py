"""What is opened on a worker thread has an owner, however the coroutine that waits is treated."""

import asyncio
import threading

import anyio
import pytest

from serving.threads import in_thread


class Opened:
    """Something that has to be closed; opening it takes until `go_on` is set."""

    def __init__(self):
        self.begun, self.go_on, self.closed = (threading.Event() for _ in range(3))

    def open(self):
        self.begun.set()
        assert self.go_on.wait(60)
        return self

    def close(self):
        self.closed.set()


async def begin(opened):
    """A task that waits for the opening, which has begun."""
    waiting = asyncio.create_task(in_thread(opened.open, discard=Opened.close))
    await asyncio.to_thread(opened.begun.wait, 60)
    return waiting


def test_result_is_the_callers():
    opened = Opened()

    async def take():
        opened.go_on.set()
        return await in_thread(opened.open, discard=Opened.close)

    assert asyncio.run(take()) is opened
    assert not opened.closed.is_set()


def test_error_is_the_calls_own():
    async def fail():
        await in_thread(lambda: 1 / 0, discard=pytest.fail)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(fail())


@pytest.mark.parametrize("cancellations", [1, 2, 5])
def test_cancelled_wait_ends_with_the_call_and_closes_what_it_opened(cancellations):
    opened = Opened()

    async def cancel():
        waiting = await begin(opened)
        for _ in range(cancellations):
            waiting.cancel()
            await asyncio.sleep(0)
            assert not waiting.done()  # the call still runs
        opened.go_on.set()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert opened.closed.is_set()

    asyncio.run(cancel())


def test_timeout_and_anyio_scope_close_what_was_opened_too():
    by_timeout, by_scope = Opened(), Opened()

    async def leave():
        asyncio.get_running_loop().call_later(0.02, by_timeout.go_on.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await in_thread(by_timeout.open, discard=Opened.close)
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(0.01, scope.cancel)
            asyncio.get_running_loop().call_later(0.02, by_scope.go_on.set)
            await in_thread(by_scope.open, discard=Opened.close)
        assert scope.cancelled_caught
        assert by_timeout.closed.is_set()
        assert by_scope.closed.is_set()

    asyncio.run(leave())


def test_call_that_fails_after_its_caller_was_cancelled_is_no_matter(caplog):
    begun, go_on = threading.Event(), threading.Event()

    def fail():
        begun.set()
        assert go_on.wait(60)
        raise OSError("the disk is away")

    async def cancel():
        waiting = asyncio.create_task(in_thread(fail, discard=pytest.fail))
        await asyncio.to_thread(begun.wait, 60)
        waiting.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()

    asyncio.run(cancel())
    assert caplog.text == ""  # no exception that nobody retrieved


def test_closing_event_loop_leaves_nothing_open():
    opened = Opened()

    # The loop's end cancels every task, the waiting one's inner one included: nobody is left.
    asyncio.run(begin(opened))
    opened.go_on.set()
    assert opened.closed.wait(60)


def test_limiter_keeps_its_token_until_the_call_has_ended():
    opened = Opened()

    async def cancel():
        limiter = anyio.CapacityLimiter(1)
        waiting = asyncio.create_task(in_thread(opened.open, limiter=limiter, discard=Opened.close))
        await asyncio.to_thread(opened.begun.wait, 60)
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert limiter.borrowed_tokens == 1
        opened.go_on.set()
        await asyncio.gather(waiting, return_exceptions=True)
        assert limiter.borrowed_tokens == 0

    asyncio.run(cancel())
