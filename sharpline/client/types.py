"""What is asked of the picture server, what it answers, and how long to be patient with it.

Nothing here opens a connection: both clients share it.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx

from superres.common.errors import SharplineError

RETRY_STATUSES = frozenset(
    {429, 502, 503}
)  # what a busy or restarting server, or its proxy, answers
FIRST_PAUSE_SECONDS = 0.5
MEDIA_PREFIX = "image/"


class RequestRefused(SharplineError):
    """The server answered with a problem (RFC 9457); `label` is the last part of its type."""

    def __init__(self, status: int, label: str, detail: str) -> None:
        super().__init__(f"{detail} ({status} {label})")
        self.status = status
        self.label = label
        self.detail = detail


class ServerUnavailable(SharplineError):
    """The server could not be reached, or broke its answer off, as often as it was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhanceOptions:
    """The options of POST /v1/enhance; None leaves one to the server."""

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
        """The same for an answer in this format."""
        return replace(self, format=format)

    def query(self) -> dict[str, str]:
        """As parameters of the address."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in given.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhanced:
    """An enlarged picture and what made it; `chain` names every model, oldest first."""

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
    def of(cls, response: httpx.Response) -> "Enhanced":
        """From a whole answer."""
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
    """Pictures that were handed over; `queue_position` is that in the queue while the job waits."""

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
        """Whether nothing more will become of it."""
        return self.state not in ("queued", "running")

    @classmethod
    def of(cls, response: httpx.Response) -> "Job":
        """From the server's view of it."""
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
    """How often and how long a request is tried.

    The server's Retry-After is obeyed to the second; one that asks for more than
    `longest_pause_seconds` ends the trying. Without it pauses double, with chance in them so that
    many clients do not come back at once.
    """

    attempts: int = 6
    longest_pause_seconds: float = 60.0
    chance: Callable[[], float] = random.random

    def pause_seconds(self, attempt: int, retry_after: str | None = None) -> float | None:
        """How long to wait after the attempt of this number, from 1; None to give up."""
        if attempt >= self.attempts:
            return None
        asked = None if retry_after is None else _seconds_of(retry_after)
        if asked is not None:
            return asked if asked <= self.longest_pause_seconds else None
        doubled = min(self.longest_pause_seconds, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        return doubled * (0.5 + 0.5 * self.chance())


def refusal_of(response: httpx.Response) -> RequestRefused:
    """The problem in an answer, or what can be said of one that holds none."""
    try:
        problem = response.json()
        label = str(problem["type"]).rpartition("/")[2]
        return RequestRefused(response.status_code, label, str(problem["detail"]))
    except (ValueError, KeyError, TypeError):
        reason = f"the server answered {response.status_code} {response.reason_phrase}"
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
