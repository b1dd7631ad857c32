"""Cancels work for a client that closes its connection."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from serving.errors import ClientGone

Result = TypeVar("Result")


async def cancel_on_disconnect(
    receive: Receive, work: Coroutine[Any, Any, Result], awaited: str
) -> Result:
    """The result of `work`, which is cancelled when the client closes the connection.

    Raises ClientGone, which names what the client had `awaited`.
    """
    working = asyncio.create_task(work)
    disconnected = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone(f"the client disconnected before its {awaited}")
        return working.result()
    finally:
        for task in (working, disconnected):
            task.cancel()
        await asyncio.gather(working, disconnected, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
