"""What surrounds every answer: security headers, its id, and which hosts and sites may ask."""

import logging
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import CrossSite, ServingError, WrongHost
from serving.problems import problem_response
from serving.requests.client_address import LOOPBACK_NAMES, host_name, is_loopback
from serving.settings import Settings
from serving.telemetry.logs import request_id_now
from superres.image.codecs import PictureError

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

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


def request_id_of(headers: Headers) -> str:
    """The client's own id where it is sane, its trace's (W3C Trace Context), or else a new one."""
    given = headers.get(REQUEST_ID, "")
    if _SANE_ID.fullmatch(given):
        return given
    trace = _TRACE_PARENT.fullmatch(headers.get("traceparent", ""))
    return trace[1] if trace else uuid.uuid4().hex


def hosts_of(settings: Settings) -> frozenset[str] | None:
    """The names that the server goes by; None for any.

    A server that only this machine can reach is still reached by every page in its browsers, under
    a name that its owner lets point here (DNS rebinding); so it goes by local names alone.
    """
    if settings.security.allow_hosts:
        return frozenset(host_name(name) for name in settings.security.allow_hosts)
    return LOOPBACK_NAMES | {settings.host.lower()} if is_loopback(settings.host) else None


def refused(error: ServingError | PictureError, scope: Scope) -> Response:
    """The answer that tells of an error; its kind goes into the request's count and log line."""
    scope.setdefault("state", {})["problem"] = error.label
    # Clients of the Open Inference Protocol look for the detail elsewhere than RFC 9457 puts it.
    return problem_response(error, instance_of(scope), as_error=scope["path"].startswith("/v2"))


class SecurityMiddleware:
    """Adds the headers and the request's id; refuses wrong names and posts of other sites' pages.

    `hosts` are the names that the server goes by, None for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        allow_origins: Sequence[str] = (),
        hosts: frozenset[str] | None = None,
    ) -> None:
        self._app = app
        self._allow_origins = frozenset(allow_origins)
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        request_id_now.set(request_id)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer[REQUEST_ID] = request_id
                for name, value in SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope, headers)
        app = self._app if refusal is None else refused(refusal, scope)
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> ServingError | None:
        if self._hosts is not None and host_name(headers.get("host", "")) not in self._hosts:
            return WrongHost("the server does not go by the name in the Host header")
        # A page of another site sent this; CORS alone would hide only the answer.
        if (
            scope["method"] == "POST"
            and headers.get("sec-fetch-site") == "cross-site"
            and headers.get("origin") not in self._allow_origins
        ):
            return CrossSite("this page's site may not send pictures here")
        return None


class InternalErrorMiddleware:
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
            await refused(fault, scope)(scope, receive, send)
