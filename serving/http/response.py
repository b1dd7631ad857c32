"""An answer on the wire, piece by piece while the rest is still being worked on.

What fails after the first byte can no longer have a status. Then the connection is broken off: the
transfer is chunked and its last chunk never comes, which every client reports as an error, so no
part of a picture passes for the whole of it. HTTP/1.0 has no chunks, an end there is always the
end; its clients get the answer once it is whole, with its length.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Protocol

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.enhance.request import EnhanceResult
from serving.errors import ClientGone
from superres.common.errors import SharplineError

log = logging.getLogger(__name__)


class ResponseObserver(Protocol):
    """Hears of answers that were broken off."""

    def answer_cut(self, reason: str) -> None: ...


class PictureResponse(Response):
    """Sends an answer; `held` is closed once it is sent or broken off."""

    def __init__(
        self,
        answer: EnhanceResult,
        held: contextlib.ExitStack,
        observer: ResponseObserver,
        *,
        media_type: str,
        headers: Mapping[str, str],
        taking_seconds: float,
    ) -> None:
        super().__init__(media_type=media_type, headers=dict(headers))
        del self.headers["content-length"]  # that of the empty body which Response was given
        self._answer = answer
        self._held = held
        self._observer = observer
        self._taking_seconds = taking_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            async with contextlib.aclosing(self._answer.chunks):
                sending = asyncio.create_task(self._send(scope, send))
                try:
                    await self._watched(sending, receive)
                except Exception as error:
                    reason = reason_of(error)
                    self._observer.answer_cut(reason)
                    scope.setdefault("state", {})["cut"] = reason
                    if not isinstance(error, SharplineError | TimeoutError):
                        raise
                    # An app that returns before its last piece makes the server close the
                    # connection; an exception would do the same with a traceback in the log.
                    log.warning("an answer was broken off: %s", error or reason)

    async def _send(self, scope: Scope, send: Send) -> None:
        chunks, size = self._answer.chunks, self._answer.size
        if size is None and scope["http_version"] == "1.0":
            whole = b"".join([chunk async for chunk in chunks])
            chunks, size = _only(whole), len(whole)
        if size is not None:
            self.headers["content-length"] = str(size)
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async for chunk in chunks:
            # A client that takes nothing holds memory and a place that others wait for.
            async with asyncio.timeout(self._taking_seconds):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watched(self, sending: "asyncio.Task[None]", receive: Receive) -> None:
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientGone("the client went away before its answer was complete")
            sending.result()
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)


class ClosingResponse(StreamingResponse):
    """Streams what an async generator yields and closes it, also when the client has left."""

    def __init__(self, chunks: AsyncGenerator[str | bytes], **given: Any) -> None:
        super().__init__(chunks, **given)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._chunks):
            await super().__call__(scope, receive, send)


def reason_of(error: Exception) -> str:
    """A bounded word for what broke an answer off."""
    if isinstance(error, TimeoutError):
        return "slow-client"
    return getattr(error, "label", "internal-error")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _only(whole: bytes) -> AsyncIterator[bytes]:
    yield whole
