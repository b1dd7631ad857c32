"""Downloads one archive from one URL and resumes a partial download.

NAME.partial holds the bytes received so far, NAME.partial.json the URL, validator and total of the
file that they belong to. Both survive a kill at any moment, and bytes of two files are never mixed.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from superres.common.console import format_bytes, say, track_bytes
from superres.common.errors import SharplineError
from superres.common.files import translate_write_errors, write_json
from training.data.sources.entries import Archive

# Statuses that are worth a retry.
TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class MirrorFailed(SharplineError):
    """One mirror did not serve the file; another may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Timeouts, and the number of attempts without progress, of a download."""

    attempts: int = 5
    connect_timeout_seconds: float = 20.0
    read_timeout_seconds: float = 60.0
    first_wait_seconds: float = 1.0
    max_wait_seconds: float = 60.0

    def wait_seconds(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: exponential backoff."""
        return min(self.first_wait_seconds * 2 ** (failures - 1), self.max_wait_seconds)


class PartialDownload(BaseModel):
    """The file that a partial download belongs to: its URL, validator and total bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    validator: str | None
    total: int | None


class TransientFailure(Exception):
    """A failure that is worth a retry."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Transfer:
    """Downloads one archive from one URL into the partial file."""

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        archive: Archive,
        folder: Path,
        retry_policy: RetryPolicy,
    ) -> None:
        self.url, self.archive = url, archive
        self.partial = folder / f"{archive.name}.partial"
        self.metadata_path = folder / f"{archive.name}.partial.json"
        self._client, self._retry_policy = client, retry_policy

    def run(self) -> bool:
        """Download until the partial file is complete; return whether the download was resumed.

        Raises MirrorFailed after too many attempts without progress.
        """
        failures, farthest, resumed = 0, 0, self._size() > 0
        while True:
            try:
                self._stream()
                return resumed
            except (httpx.TransportError, TransientFailure) as error:
                # Only bytes beyond the farthest so far are progress: a server that always breaks
                # off at the same offset would be retried for ever.
                failures = 1 if self._size() > farthest else failures + 1
                farthest, resumed = max(farthest, self._size()), True
                if failures >= self._retry_policy.attempts:
                    raise MirrorFailed(
                        f"{_reason(error)}, {failures} times without progress"
                    ) from error
                wait_seconds = getattr(error, "wait_seconds", None)
                if wait_seconds is None:
                    wait_seconds = self._retry_policy.wait_seconds(failures)
                say(f"{self.archive.name}: {_reason(error)}; retrying at {self._size()} bytes")
                time.sleep(min(wait_seconds, self._retry_policy.max_wait_seconds))

    def discard(self) -> None:
        """Delete the partial file and its metadata."""
        self.partial.unlink(missing_ok=True)
        self.metadata_path.unlink(missing_ok=True)

    def _stream(self) -> None:
        partial_download = self._read_metadata()
        if partial_download is None:
            self.discard()
        start = self._size()
        if partial_download is not None and start == partial_download.total:
            return
        headers = {"Accept-Encoding": "identity"}
        if partial_download is not None and partial_download.validator is not None and start:
            headers |= {"Range": f"bytes={start}-", "If-Range": partial_download.validator}
        with self._client.stream("GET", self.url, headers=headers) as response:
            self._require_archive(response)
            if response.status_code == httpx.codes.PARTIAL_CONTENT:
                total = self._resumed_total(response, start, partial_download)
            else:  # a full response: the server ignores Range, or the file has changed
                self.discard()
                start, total = 0, _content_length(response)
                self._write_metadata(response, total)
            self._require_published_size(total)
            self._require_space(start, total)
            self._write(response, start, total)

    def _require_archive(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.discard()
            raise TransientFailure("the file on the server is shorter than the partial download")
        if status in TRANSIENT_STATUSES:
            raise TransientFailure(f"the server answered {status}", _retry_after(response))
        if status in (401, 403):
            raise MirrorFailed(f"the server answered {status}: it requires an account or consent")
        if status not in (200, 206):
            raise MirrorFailed(f"the server answered {status}")
        if response.headers.get("content-type", "").startswith("text/"):
            raise MirrorFailed("the server sent a text page, not an archive")

    def _resumed_total(
        self, response: httpx.Response, start: int, partial_download: PartialDownload | None
    ) -> int | None:
        """The total size of a file that resumes at `start`; otherwise discards and retries."""
        first_byte, total = _content_range(response)
        same_file = partial_download is not None and _validator(response) in (
            None,
            partial_download.validator,
        )
        if (
            first_byte != start
            or not same_file
            or partial_download is None
            or total != partial_download.total
        ):
            self.discard()
            raise TransientFailure("the server resumed at another offset or with another file")
        return total

    def _require_published_size(self, total: int | None) -> None:
        published = self.archive.bytes
        if published is not None and total not in (None, published):
            self.discard()
            raise MirrorFailed(f"the file has {total} bytes instead of {published}")

    def _require_space(self, start: int, total: int | None) -> None:
        free = shutil.disk_usage(self.partial.parent).free
        if total is not None and total - start > free:
            raise SharplineError(
                f"{self.archive.name} needs {format_bytes(total - start)} more and "
                f"{self.partial.parent} has {format_bytes(free)} left; free some, or set "
                "SHARPLINE_STATE to a folder on another disk"
            )

    def _write(self, response: httpx.Response, start: int, total: int | None) -> None:
        label = f"fetching {self.archive.name}"
        with (
            translate_write_errors(self.partial),
            self.partial.open("ab") as file,
            track_bytes(label, total, start) as count,
        ):
            for chunk in response.iter_raw():  # unbuffered: a broken connection loses nothing
                file.write(chunk)
                count(len(chunk))
        if total is not None and self._size() != total:
            raise TransientFailure(f"the connection closed after {self._size()} of {total} bytes")

    def _read_metadata(self) -> PartialDownload | None:
        """The metadata of the partial file, or None if it cannot be resumed."""
        try:
            partial_download = PartialDownload.model_validate_json(self.metadata_path.read_bytes())
        except (OSError, ValidationError):
            return None
        same_url = partial_download.address == without_credentials(self.url)
        too_long = partial_download.total is not None and self._size() > partial_download.total
        resumable = same_url and partial_download.validator is not None and not too_long
        return partial_download if resumable else None

    def _write_metadata(self, response: httpx.Response, total: int | None) -> None:
        partial_download = PartialDownload(
            address=without_credentials(self.url), validator=_validator(response), total=total
        )
        write_json(self.metadata_path, json.loads(partial_download.model_dump_json()))

    def _size(self) -> int:
        try:
            return self.partial.stat().st_size
        except FileNotFoundError:
            return 0


def without_credentials(url: str) -> str:
    """A URL for messages and records: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _validator(response: httpx.Response) -> str | None:
    """A validator of the file for If-Range (RFC 9110, section 13.1.5), None if there is none."""
    etag = response.headers.get("etag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("last-modified")


def _content_length(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isdigit() else None


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and total of `bytes FIRST-LAST/TOTAL`; None for what is missing."""
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        return None, None
    return int(first), int(total) if total.isdigit() else None


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "the server timed out"
    return str(error) or type(error).__name__
