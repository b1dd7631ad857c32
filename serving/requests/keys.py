"""API keys: stored as hashes, reloaded while the server runs, each with its own quota.

The file holds only the SHA-256 of each key. A fast hash is enough: a key has 256 random bits, so
dictionary attacks do not apply, and checking it on every request is cheap.
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import BadKey, QuotaExceeded
from superres.common.errors import SharplineError, UsageError
from superres.common.files import file_lock, write_json

log = logging.getLogger(__name__)

_KEY = re.compile(r"sl_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
MAX_KEYS = 10_000
MAX_PRIORITY = 9  # of a job
CHECK_SECONDS = 1.0  # between two checks of the file
MINUTE_SECONDS = 60.0


class BrokenKeys(SharplineError):
    """The key file cannot be used."""


class Key(BaseModel):
    """One key's record in the key file; a quota of None means no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str = Field(max_length=64)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: str
    requests_per_minute: int | None = Field(None, gt=0)
    pixels_per_minute: int | None = Field(None, gt=0)
    max_queued_jobs: int | None = Field(None, gt=0)
    max_priority: int = Field(MAX_PRIORITY, ge=0, le=MAX_PRIORITY)


class KeyFile(BaseModel):
    """The content of the key file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...] = Field(default=(), max_length=MAX_KEYS)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file; none if the file does not exist. Raises BrokenKeys."""
    try:
        return KeyFile.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise BrokenKeys(
            f"{path} cannot be read as a file of API keys ({type(error).__name__}); restore it, or "
            "create a new one with `sharpline keys add`"
        ) from error


def add_key(
    path: Path,
    name: str,
    *,
    requests_per_minute: int | None = None,
    pixels_per_minute: int | None = None,
    max_queued_jobs: int | None = None,
    max_priority: int = MAX_PRIORITY,
) -> tuple[Key, str]:
    """Add a new key; returns its record and the key itself, which is not stored."""
    key_id = secrets.token_hex(6)
    secret = f"sl_{key_id}_{secrets.token_urlsafe(32)}"
    key = Key(
        id=key_id,
        name=name,
        sha256=_digest(secret),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        requests_per_minute=requests_per_minute,
        pixels_per_minute=pixels_per_minute,
        max_queued_jobs=max_queued_jobs,
        max_priority=max_priority,
    )
    with _locked(path):
        _write(path, (*read_keys(path), key))
    return key, secret


def revoke_key(path: Path, key_id: str) -> Key:
    """Remove a key from the file. Raises UsageError if it is not there."""
    with _locked(path):
        keys = read_keys(path)
        revoked = next((key for key in keys if key.id == key_id), None)
        if revoked is None:
            raise UsageError(f"{path} has no key {key_id!r}; `sharpline keys list` shows them")
        _write(path, tuple(key for key in keys if key is not revoked))
    return revoked


def _locked(path: Path):
    return file_lock(path.with_name(f".{path.name}.lock"), timeout_seconds=10)


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    write_json(path, KeyFile(keys=keys).model_dump(mode="json"))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class TokenBucket:
    """A token bucket of one minute's quota; a cost above its level leaves a debt."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._rate = per_minute / MINUTE_SECONDS
        self._size = per_minute
        self._clock = clock
        self._level = per_minute
        self._seen_seconds = clock()

    def wait_seconds(self, minimum: float) -> float:
        """Seconds until the bucket holds `minimum`; 0 if it does."""
        now_seconds = self._clock()
        gained = (now_seconds - self._seen_seconds) * self._rate
        self._level = min(self._size, self._level + gained)
        self._seen_seconds = now_seconds
        return max(0.0, (minimum - self._level) / self._rate)

    def take(self, cost: float) -> None:
        self._level -= cost


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: a key with its token buckets, or anonymous."""

    key: Key | None = None
    requests: TokenBucket | None = None
    pixels: TokenBucket | None = None

    def charge_request(self) -> None:
        """Raises QuotaExceeded with the time until the next request is accepted."""
        _charge(self.requests, 1.0, 1.0, "requests")

    def charge_pixels(self, count: int) -> None:
        """Charge `count` output pixels; more than the whole quota is accepted and leaves a debt.

        Raises QuotaExceeded with the time until the next picture is accepted.
        """
        _charge(self.pixels, 0.0, float(count), "pixels")


def _charge(bucket: TokenBucket | None, minimum: float, cost: float, unit: str) -> None:
    if bucket is None:
        return
    wait_seconds = bucket.wait_seconds(minimum)
    if wait_seconds > 0:
        raise QuotaExceeded(f"this key's {unit} per minute are used up", seconds=wait_seconds)
    bucket.take(cost)


class KeyRing:
    """The current keys of a file; without a file every caller is accepted.

    Used on the event loop, so it needs no lock. If the file becomes unreadable, the last keys stay
    valid and an error is logged.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._callers: Mapping[str, Caller] = {}
        self._file_stat: tuple[int, int, int] | None = None
        self._checked_seconds = clock()
        if path is not None:
            self._load(path)

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return self._path is not None

    def caller(self, credentials: str | None) -> Caller:
        """The caller with these credentials. Raises BadKey."""
        if self._path is None:
            return Caller()
        self._refresh(self._path)
        if credentials is None:
            raise BadKey("this server requires an API key: send `Authorization: Bearer KEY`")
        match = _KEY.fullmatch(credentials)
        caller = self._callers.get(match[1]) if match else None
        # An unknown id takes as long as a wrong secret, so timing reveals no ids.
        expected = caller.key.sha256 if caller is not None and caller.key is not None else "0" * 64
        is_valid = hmac.compare_digest(_digest(credentials), expected)
        if caller is None or not is_valid:
            raise BadKey("this API key is unknown; it may have been revoked")
        return caller

    def charge_pixels(self, client: str, count: int) -> None:
        """Charge background work for a client, `key:ID` if it has a key.

        Raises QuotaExceeded. A key that was revoked meanwhile is not charged.
        """
        caller = self._callers.get(client.removeprefix("key:")) if client[:4] == "key:" else None
        if caller is not None:
            caller.charge_pixels(count)

    def _refresh(self, path: Path) -> None:
        now_seconds = self._clock()
        if now_seconds - self._checked_seconds < CHECK_SECONDS:
            return
        self._checked_seconds = now_seconds
        if _stat_of(path) != self._file_stat:
            try:
                self._load(path)
                log.info("API keys reloaded from %s: %d", path, len(self._callers))
            except BrokenKeys as error:
                log.error("API keys not reloaded: %s", error)

    def _load(self, path: Path) -> None:
        file_stat = _stat_of(path)
        if file_stat is None:
            raise BrokenKeys(
                f"there is no key file {path}; create one with `sharpline keys add NAME`"
            )
        keys = read_keys(path)
        self._file_stat = file_stat
        self._callers = {key.id: self._caller_of(key) for key in keys}

    def _caller_of(self, key: Key) -> Caller:
        before = self._callers.get(key.id)
        if before is not None and before.key == key:
            return before  # reloading the file does not reset a quota
        return Caller(
            key,
            TokenBucket(key.requests_per_minute, self._clock) if key.requests_per_minute else None,
            TokenBucket(key.pixels_per_minute, self._clock) if key.pixels_per_minute else None,
        )


def _stat_of(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
