"""Security middleware: response headers, request ids, allowed hosts and origins."""

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
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
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
    """A problem's `instance`: the request id, as in the log and the header."""
    request_id = scope.get("state", {}).get("request_id")
    return None if request_id is None else f"urn:request:{request_id}"


def request_id_of(headers: Headers) -> str:
    """The client's request id if valid, else its trace id (W3C Trace Context), else a new one."""
    sent_id = headers.get(REQUEST_ID, "")
    if _VALID_ID.fullmatch(sent_id):
        return sent_id
    trace = _TRACE_PARENT.fullmatch(headers.get("traceparent", ""))
    return trace[1] if trace else uuid.uuid4().hex


def hosts_of(settings: Settings) -> frozenset[str] | None:
    """The host names that the server accepts; None for any.

    A server that listens on loopback can still be reached by web pages in a local browser, through
    DNS rebinding; so it accepts local names only.
    """
    if settings.security.allow_hosts:
        return frozenset(host_name(name) for name in settings.security.allow_hosts)
    return LOOPBACK_NAMES | {settings.host.lower()} if is_loopback(settings.host) else None


def error_response(error: ServingError | PictureError, scope: Scope) -> Response:
    """The problem response of an error; records its label for the request's metrics and log."""
    scope.setdefault("state", {})["problem"] = error.label
    # The Open Inference Protocol has the detail in `error`, unlike RFC 9457.
    return problem_response(error, instance_of(scope), as_error=scope["path"].startswith("/v2"))


class SecurityMiddleware:
    """Adds security headers and the request id; refuses unknown hosts and cross-site posts.

    `hosts` are the accepted host names, None for any.
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
        app = self._app if refusal is None else error_response(refusal, scope)
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> ServingError | None:
        if self._hosts is not None and host_name(headers.get("host", "")) not in self._hosts:
            return WrongHost("the name in the Host header is not allowed")
        # Sent by a page of another site; CORS alone would only hide the response.
        if (
            scope["method"] == "POST"
            and headers.get("sec-fetch-site") == "cross-site"
            and headers.get("origin") not in self._allow_origins
        ):
            return CrossSite("pages of this origin may not send pictures here")
        return None


class InternalErrorMiddleware:
    """Turns an unexpected error into a problem response; details go only to the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_record(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except Exception:
            if started:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            error = ServingError("the server failed; see its log")
            await error_response(error, scope)(scope, receive, send)
