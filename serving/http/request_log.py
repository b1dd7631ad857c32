"""Request metrics and the access log: one line per request."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.telemetry.logs import FIELDS
from serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

QUIET_ROUTES = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})  # polled every few seconds


class RequestMetrics:
    """Middleware that counts, times and logs every request under its route's template."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_seconds = time.perf_counter()
        status = 500

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        finally:
            seconds = time.perf_counter() - started_seconds
            state = scope.get("state", {})
            route = getattr(scope.get("route"), "path", "other")
            model = state.get("model", "")
            self._metrics.requests.labels(route, str(status), model).inc()
            self._metrics.request_duration.labels(route, model).observe(seconds)
            if "problem" in state:
                self._metrics.problems.labels(state["problem"]).inc()
            fields = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
                "request_id": state.get("request_id"),
                "client": state.get("client"),
                "model": model or None,
                "problem": state.get("problem"),
            }
            logged = {name: value for name, value in fields.items() if value is not None}
            level = logging.DEBUG if route in QUIET_ROUTES else logging.INFO
            log.log(level, "request", extra={FIELDS: logged})
