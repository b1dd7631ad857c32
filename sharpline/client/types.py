"""Options, results, errors and the retry policy of both clients; no I/O."""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx

from superres.common.errors import SharplineError

RETRY_STATUSES = frozenset({429, 502, 503})  # of a busy or restarting server, or its proxy
FIRST_PAUSE_SECONDS = 0.5
MEDIA_PREFIX = "image/"


class RequestRefused(SharplineError):
    """The server responded with a problem (RFC 9457); `label` is the last part of its type."""

    def __init__(self, status: int, label: str, detail: str) -> None:
        super().__init__(f"{detail} ({status} {label})")
        self.status = status
        self.label = label
        self.detail = detail


class ServerUnavailable(SharplineError):
    """The server could not be reached, or aborted its response, in every attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhanceOptions:
    """The options of POST /v1/enhance; None means the server's default."""

    model: str | None = None
    task: str | None = None
    scale: int | None = None
    region: str | None = None
    on_too_large: Literal["refuse", "shrink"] | None = None
    format: str | None = None
    quality: int | None = None
    icc: Literal["keep", "srgb"] | None = None
    keep_metadata: bool | None = None
    deadline: float | None = None

    def with_format(self, format: str) -> "EnhanceOptions":
        """A copy with this output format."""
        return replace(self, format=format)

    def query(self) -> dict[str, str]:
        """As query parameters."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in given.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhanced:
    """An enlarged picture and its model; `chain` names every model so far, oldest first."""

    data: bytes
    format: str
    model: str
    version: str
    bundle: str
    chain: str
    request: str
    consistency: str
    reason: str | None = None

    @classmethod
    def from_response(cls, response: httpx.Response) -> "Enhanced":
        """From a complete response."""
        headers = response.headers
        return cls(
            data=response.content,
            format=headers.get("Content-Type", "").removeprefix(MEDIA_PREFIX),
            model=headers.get("Sharpline-Model", ""),
            version=headers.get("Sharpline-Version", ""),
            bundle=headers.get("Sharpline-Bundle", ""),
            chain=headers.get("Sharpline-Chain", ""),
            request=headers.get("X-Request-ID", ""),
            consistency=headers.get("Sharpline-Consistency", ""),
            reason=headers.get("Sharpline-Reason"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """State and progress of a job; `queue_position` is None unless it is queued."""

    id: str
    state: str
    queue_position: int | None
    pictures_done: int
    pictures_total: int
    tiles_done: int
    tiles_total: int
    problem: str | None

    @property
    def finished(self) -> bool:
        """Whether the job has ended."""
        return self.state not in ("queued", "running")

    @classmethod
    def from_response(cls, response: httpx.Response) -> "Job":
        """From the server's JSON."""
        view = response.json()
        return cls(
            id=view["id"],
            state=view["state"],
            queue_position=view.get("queue_position"),
            problem=(view.get("problem") or {}).get("detail"),
            **view["progress"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The number of attempts of a request and the pauses between them.

    The server's Retry-After is honoured exactly; one above `max_pause_seconds` ends the retries.
    Without it the backoff is exponential, with jitter.
    """

    attempts: int = 6
    max_pause_seconds: float = 60.0
    jitter: Callable[[], float] = random.random

    def pause_seconds(self, attempt: int, retry_after: str | None = None) -> float | None:
        """Seconds to wait after this attempt, counted from 1; None to give up."""
        if attempt >= self.attempts:
            return None
        server_seconds = None if retry_after is None else _seconds_of(retry_after)
        if server_seconds is not None:
            return server_seconds if server_seconds <= self.max_pause_seconds else None
        doubled = min(self.max_pause_seconds, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        return doubled * (0.5 + 0.5 * self.jitter())


def refusal_of(response: httpx.Response) -> RequestRefused:
    """The problem in an error response; label `unknown` if it has none."""
    try:
        problem = response.json()
        label = str(problem["type"]).rpartition("/")[2]
        return RequestRefused(response.status_code, label, str(problem["detail"]))
    except (ValueError, KeyError, TypeError):
        reason = f"the server responded {response.status_code} {response.reason_phrase}"
        return RequestRefused(response.status_code, "unknown", reason)


def _seconds_of(retry_after: str) -> float | None:
    """Retry-After as seconds from now: a number, or an HTTP date (RFC 9110, 10.2.3)."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
