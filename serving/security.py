"""What surrounds every answer: security headers, an id, its count, a name for our faults."""

import logging
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import CrossSite, ServingError, problem_response
from serving.metrics import Metrics

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def instance_of(scope: Scope) -> str | None:
    """What a problem's `instance` says: the request's id, as the log and the header have it."""
    request_id = scope.get("state", {}).get("request_id")
    return None if request_id is None else f"urn:request:{request_id}"


class SecurityHeaders:
    """Adds the headers and the request's id, and refuses posts from pages of other sites."""

    def __init__(self, app: ASGIApp, allow_origins: Sequence[str] = ()) -> None:
        self._app = app
        self._allow_origins = frozenset(allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID, "")
        if not _SANE_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer[REQUEST_ID] = request_id
                for name, value in SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        app = self._refuse if self._is_foreign(scope, headers) else self._app
        await app(scope, receive, send_with_headers)

    def _is_foreign(self, scope: Scope, headers: Headers) -> bool:
        """Whether a page of another site sent this; CORS alone would hide only the answer."""
        return (
            scope["method"] == "POST"
            and headers.get("sec-fetch-site") == "cross-site"
            and headers.get("origin") not in self._allow_origins
        )

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = CrossSite("this page's site may not send pictures here")
        await problem_response(refusal)(scope, receive, send)


class OwnFaults:
    """Turns an error that nothing foresaw into a problem; the log alone learns what it was."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if begun:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            fault = ServingError("the server failed; its log has more")
            await problem_response(fault, instance_of(scope))(scope, receive, send)


class RequestFigures:
    """Counts every request and its time under its route's template."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_seconds = time.perf_counter()
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            model = scope.get("state", {}).get("model", "")
            self._metrics.requests.labels(route, str(status), model).inc()
            self._metrics.request_duration.labels(route, model).observe(
                time.perf_counter() - started_seconds
            )
