"""`in_thread` closes what it opens, however the awaiting coroutine is cancelled."""

import asyncio
import threading

import anyio
import pytest

from serving.threads import in_thread


class Resource:
    """A resource that must be closed; `open` blocks until `go_on` is set."""

    def __init__(self):
        self.started, self.go_on, self.closed = (threading.Event() for _ in range(3))

    def open(self):
        self.started.set()
        assert self.go_on.wait(60)
        return self

    def close(self):
        self.closed.set()


async def start_opening(resource):
    """A task that waits for `open`, which has started."""
    waiting = asyncio.create_task(in_thread(resource.open, discard=Resource.close))
    await asyncio.to_thread(resource.started.wait, 60)
    return waiting


def test_result_is_returned_open():
    resource = Resource()

    async def take():
        resource.go_on.set()
        return await in_thread(resource.open, discard=Resource.close)

    assert asyncio.run(take()) is resource
    assert not resource.closed.is_set()


def test_error_of_the_call_is_raised():
    async def fail():
        await in_thread(lambda: 1 / 0, discard=pytest.fail)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(fail())


@pytest.mark.parametrize("cancellations", [1, 2, 5])
def test_cancelled_wait_ends_with_the_call_and_closes_its_result(cancellations):
    resource = Resource()

    async def cancel():
        waiting = await start_opening(resource)
        for _ in range(cancellations):
            waiting.cancel()
            await asyncio.sleep(0)
            assert not waiting.done()  # the call still runs
        resource.go_on.set()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert resource.closed.is_set()

    asyncio.run(cancel())


def test_timeout_and_anyio_scope_close_the_result_too():
    by_timeout, by_scope = Resource(), Resource()

    async def cancel():
        asyncio.get_running_loop().call_later(0.02, by_timeout.go_on.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await in_thread(by_timeout.open, discard=Resource.close)
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(0.01, scope.cancel)
            asyncio.get_running_loop().call_later(0.02, by_scope.go_on.set)
            await in_thread(by_scope.open, discard=Resource.close)
        assert scope.cancelled_caught
        assert by_timeout.closed.is_set()
        assert by_scope.closed.is_set()

    asyncio.run(cancel())


def test_error_after_cancellation_is_not_logged(caplog):
    started, go_on = threading.Event(), threading.Event()

    def fail():
        started.set()
        assert go_on.wait(60)
        raise OSError("disk error")

    async def cancel():
        waiting = asyncio.create_task(in_thread(fail, discard=pytest.fail))
        await asyncio.to_thread(started.wait, 60)
        waiting.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()

    asyncio.run(cancel())
    assert caplog.text == ""  # no unretrieved exception


def test_closing_event_loop_closes_the_result():
    resource = Resource()

    # Closing the loop cancels every task, including the inner one that waits for the thread.
    asyncio.run(start_opening(resource))
    resource.go_on.set()
    assert resource.closed.wait(60)


def test_limiter_keeps_its_token_until_the_call_has_ended():
    resource = Resource()

    async def cancel():
        limiter = anyio.CapacityLimiter(1)
        waiting = asyncio.create_task(
            in_thread(resource.open, limiter=limiter, discard=Resource.close)
        )
        await asyncio.to_thread(resource.started.wait, 60)
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert limiter.borrowed_tokens == 1
        resource.go_on.set()
        await asyncio.gather(waiting, return_exceptions=True)
        assert limiter.borrowed_tokens == 0

    asyncio.run(cancel())
