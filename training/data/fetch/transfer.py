"""The bytes of one archive from one address, resumed where they broke off.

What has come so far is NAME.partial, and NAME.partial.json says of which file on which server it is
the beginning; both survive a kill at any moment, and bytes of two files are never joined.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from superres.common.console import counting, in_units, say
from superres.common.errors import SharplineError
from superres.common.files import write_json, writing
from training.data.sources.entries import Archive

# Statuses that the same request may not get a little later.
TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class MirrorFailed(SharplineError):
    """One mirror did not give the file; another may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long a server may take and how often it is asked again without getting any further."""

    attempts: int = 5
    connect_seconds: float = 20.0
    silence_seconds: float = 60.0
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0

    def wait_seconds(self, failures: int) -> float:
        """How long to wait after so many failures in a row, doubled each time."""
        return min(self.first_wait_seconds * 2 ** (failures - 1), self.longest_wait_seconds)


class PartialDownload(BaseModel):
    """Of what the partial file is the beginning: the same address and validator, or it is not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    validator: str | None
    total: int | None


class TransientFailure(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Transfer:
    """The bytes of one archive from one address into the partial file."""

    def __init__(
        self,
        client: httpx.Client,
        address: str,
        archive: Archive,
        folder: Path,
        retry_policy: RetryPolicy,
    ) -> None:
        self.address, self.archive = address, archive
        self.partial = folder / f"{archive.name}.partial"
        self.note = folder / f"{archive.name}.partial.json"
        self._client, self._retry_policy = client, retry_policy

    def run(self) -> bool:
        """Return once the partial file is whole; whether any of it was there or came in pieces.

        Raises MirrorFailed when the server gets no further.
        """
        failures, farthest, resumed = 0, 0, self._size() > 0
        while True:
            try:
                self._stream()
                return resumed
            except (httpx.TransportError, TransientFailure) as error:
                # Only bytes beyond the farthest so far are progress: a server that always breaks
                # off at the same place would be asked for ever.
                failures = 1 if self._size() > farthest else failures + 1
                farthest, resumed = max(farthest, self._size()), True
                if failures >= self._retry_policy.attempts:
                    raise MirrorFailed(
                        f"{_reason(error)}, {failures} times without getting any further"
                    ) from error
                wait_seconds = getattr(error, "wait_seconds", None)
                if wait_seconds is None:
                    wait_seconds = self._retry_policy.wait_seconds(failures)
                say(f"{self.archive.name}: {_reason(error)}; asking again at {self._size()} bytes")
                time.sleep(min(wait_seconds, self._retry_policy.longest_wait_seconds))

    def forget(self) -> None:
        """Throw away what has come."""
        self.partial.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _stream(self) -> None:
        partial_download = self._partial_download()
        if partial_download is None:
            self.forget()
        start = self._size()
        if partial_download is not None and start == partial_download.total:
            return
        headers = {"Accept-Encoding": "identity"}
        if partial_download is not None and partial_download.validator is not None and start:
            headers |= {"Range": f"bytes={start}-", "If-Range": partial_download.validator}
        with self._client.stream("GET", self.address, headers=headers) as response:
            self._require_file(response)
            if response.status_code == httpx.codes.PARTIAL_CONTENT:
                total = self._continue_at(response, start, partial_download)
            else:  # the server sends everything: it ignores Range, or the file is another one now
                self.forget()
                start, total = 0, _length(response)
                self._note(response, total)
            self._require_fit(total)
            self._require_space(start, total)
            self._write(response, start, total)

    def _require_file(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.forget()
            raise TransientFailure("the server has fewer bytes than came before")
        if status in TRANSIENT_STATUSES:
            raise TransientFailure(f"the server answered {status}", _retry_after(response))
        if status in (401, 403):
            raise MirrorFailed(f"the server answered {status}: it asks for an account or a consent")
        if status not in (200, 206):
            raise MirrorFailed(f"the server answered {status}")
        if response.headers.get("content-type", "").startswith("text/"):
            raise MirrorFailed("the server answered with a page of text, not with an archive")

    def _continue_at(
        self, response: httpx.Response, start: int, partial_download: PartialDownload | None
    ) -> int | None:
        """The total of a file that goes on where it broke off; starts over where it does not."""
        said, total = _content_range(response)
        same = partial_download is not None and _validator(response) in (
            None,
            partial_download.validator,
        )
        if said != start or not same or partial_download is None or total != partial_download.total:
            self.forget()
            raise TransientFailure("the server went on elsewhere or with another file")
        return total

    def _require_fit(self, total: int | None) -> None:
        published = self.archive.bytes
        if published is not None and total not in (None, published):
            self.forget()
            raise MirrorFailed(f"it has {total} bytes there instead of {published}")

    def _require_space(self, start: int, total: int | None) -> None:
        free = shutil.disk_usage(self.partial.parent).free
        if total is not None and total - start > free:
            raise SharplineError(
                f"{self.archive.name} needs {in_units(total - start)} more and "
                f"{self.partial.parent} has {in_units(free)} left; free some, or set "
                "SHARPLINE_STATE to a folder on another disk"
            )

    def _write(self, response: httpx.Response, start: int, total: int | None) -> None:
        label = f"fetching {self.archive.name}"
        with (
            writing(self.partial),
            self.partial.open("ab") as file,
            counting(label, total, start) as count,
        ):
            for piece in response.iter_raw():  # as it comes: a cut loses nothing
                file.write(piece)
                count(len(piece))
        if total is not None and self._size() != total:
            raise TransientFailure(f"the server broke off after {self._size()} of {total} bytes")

    def _partial_download(self) -> PartialDownload | None:
        """What the partial file is the beginning of, where that can be gone on with."""
        try:
            partial_download = PartialDownload.model_validate_json(self.note.read_bytes())
        except (OSError, ValidationError):
            return None
        fits = (
            partial_download.address == shown(self.address)
            and partial_download.validator is not None
        )
        too_long = partial_download.total is not None and self._size() > partial_download.total
        return partial_download if fits and not too_long else None

    def _note(self, response: httpx.Response, total: int | None) -> None:
        partial_download = PartialDownload(
            address=shown(self.address), validator=_validator(response), total=total
        )
        write_json(self.note, json.loads(partial_download.model_dump_json()))

    def _size(self) -> int:
        try:
            return self.partial.stat().st_size
        except FileNotFoundError:
            return 0


def shown(address: str) -> str:
    """An address as it may be told and kept: without the name, word or token that opens it."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _validator(response: httpx.Response) -> str | None:
    """What tells this file from another there, fit for If-Range (RFC 9110, section 13.1.5)."""
    etag = response.headers.get("etag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("last-modified")


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isdigit() else None


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and total of `bytes FIRST-LAST/TOTAL`; None for what it does not say."""
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
        return "the server fell silent"
    return str(error) or type(error).__name__
