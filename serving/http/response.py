"""Streams a response chunk by chunk while the rest of the picture is still being computed.

A failure after the first byte can no longer change the status. The connection is then closed
without the last chunk of the chunked transfer, which every client reports as an error, so a partial
picture is never taken for a complete one. HTTP/1.0 has no chunked transfer: its clients get the
complete response with its length.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.enhance.request import EnhanceResult, ResponseObserver
from serving.http.disconnect import cancel_on_disconnect
from superres.common.errors import SharplineError

log = logging.getLogger(__name__)


class PictureResponse(Response):
    """Sends a picture; `resources` is closed once it is sent or aborted."""

    def __init__(
        self,
        answer: EnhanceResult,
        resources: contextlib.ExitStack,
        observer: ResponseObserver,
        *,
        media_type: str,
        headers: Mapping[str, str],
        send_timeout_seconds: float,
    ) -> None:
        super().__init__(media_type=media_type, headers=dict(headers))
        del self.headers["content-length"]  # set by Response for its empty body
        self._answer = answer
        self._resources = resources
        self._observer = observer
        self._send_timeout_seconds = send_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._resources:
            async with contextlib.aclosing(self._answer.chunks):
                try:
                    await cancel_on_disconnect(
                        receive, self._send(scope, send), "response was complete"
                    )
                except Exception as error:
                    reason = reason_of(error)
                    self._observer.response_aborted(reason)
                    if not isinstance(error, SharplineError | TimeoutError):
                        raise
                    # Returning before the last chunk makes the server close the connection; an
                    # exception would do the same with a traceback in the log.
                    log.warning("response aborted: %s", error or reason)

    async def _send(self, scope: Scope, send: Send) -> None:
        chunks, size = self._answer.chunks, self._answer.size
        if size is None and scope["http_version"] == "1.0":
            whole = b"".join([chunk async for chunk in chunks])
            chunks, size = _single_chunk(whole), len(whole)
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
            # A client that receives nothing occupies memory and an admission slot.
            async with asyncio.timeout(self._send_timeout_seconds):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ClosingResponse(StreamingResponse):
    """Streams an async generator and closes it, also when the client disconnects."""

    def __init__(self, chunks: AsyncGenerator[str | bytes], **given: Any) -> None:
        super().__init__(chunks, **given)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._chunks):
            await super().__call__(scope, receive, send)


def reason_of(error: Exception) -> str:
    """The reason of an aborted response, as a metric label of bounded cardinality."""
    if isinstance(error, TimeoutError):
        return "slow-client"
    return getattr(error, "label", "internal-error")


async def _single_chunk(whole: bytes) -> AsyncIterator[bytes]:
    yield whole
