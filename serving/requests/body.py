"""Reads a request's body within its limits, and extracts the picture."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import ClientDisconnect, Request

from serving.errors import BadMultipart, ClientGone, EmptyBody, EncodedBody, SlowBody
from serving.requests.multipart import (
    FILE_FIELD,
    MAX_FIELD_BYTES,
    MAX_PARTS,
    FormLimits,
    FormParser,
    boundary_of,
)
from superres.image.codecs import TooManyBytes

FORM_LIMITS = FormLimits(
    max_parts=MAX_PARTS,
    too_many_parts=f"the form has more than {MAX_PARTS} parts",
    field_too_long=f"the field {{name!r}} has more than {MAX_FIELD_BYTES} bytes; "
    f"the picture goes into {FILE_FIELD!r}",
)


class ByteBudget(Protocol):
    """The memory budget of one request within that of the process."""

    @property
    def bytes(self) -> int: ...

    def reserve_bytes(self, count: int) -> None:
        """Reserve `count` more bytes. Raises TooManyBytes or QueueFull."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A picture's bytes, the client's file name (never used as a path), and form fields."""

    data: bytes
    name: str = ""
    fields: dict[str, str] = field(default_factory=dict)


async def read_body(request: Request, budget: ByteBudget, timeout_seconds: float) -> bytes:
    """The whole body; its bytes are reserved in `budget` as they arrive.

    Raises EncodedBody, TooManyBytes (before reading, if the length is declared), QueueFull,
    SlowBody, EmptyBody or ClientGone.
    """
    _require_identity(request)
    declared = request.headers.get("content-length", "")
    declared_bytes = int(declared) if declared.isdigit() else 0
    budget.reserve_bytes(declared_bytes)
    body = bytearray()
    async with body_timeout(timeout_seconds):
        async for chunk in stream_body(request):
            budget.reserve_bytes(max(0, len(body) + len(chunk) - budget.bytes))
            body += chunk
    if not body:
        raise EmptyBody("the body is empty")
    return bytes(body)


async def stream_body(request: Request) -> AsyncGenerator[bytes]:
    """A request's body as it arrives. Raises EncodedBody and ClientGone."""
    _require_identity(request)
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise ClientGone("the client disconnected before its body had arrived") from None


async def limit_bytes(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes]:
    """The chunks, up to `max_bytes` in total. Raises TooManyBytes."""
    count = 0
    async for chunk in chunks:
        count += len(chunk)
        if count > max_bytes:
            raise TooManyBytes(f"more than the {max_bytes:,} bytes allowed were sent")
        yield chunk


@asynccontextmanager
async def body_timeout(seconds: float) -> AsyncGenerator[None]:
    """Limits the time that a body takes to arrive. Raises SlowBody."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise SlowBody(f"the body did not arrive within {seconds:g} seconds") from None


def unpack(content_type: str, body: bytes) -> Upload:
    """Extract the picture: the body itself, or the field `file` of a multipart form.

    Raises BadMultipart, or EmptyBody for an empty file.
    """
    boundary = boundary_of(content_type)
    if boundary is None:
        return Upload(data=body)
    form = _FormFiles()
    parser = FormParser(boundary, form, FORM_LIMITS)
    parser.write(body)
    parser.finish()
    if len(form.files) != 1:
        raise BadMultipart(
            f"the form must have exactly one field {FILE_FIELD!r}, with the picture; "
            f"it has {len(form.files)}"
        )
    name, data = form.files[0]
    if not data:
        raise EmptyBody(f"the field {FILE_FIELD!r} is empty")
    return Upload(data=bytes(data), name=name, fields=parser.fields)


class _FormFiles:
    """The names and contents of a form's files."""

    def __init__(self) -> None:
        self.files: list[tuple[str, bytearray]] = []

    def file_begins(self, name: str) -> None:
        self.files.append((name, bytearray()))

    def file_data(self, data: bytes) -> None:
        self.files[-1][1].extend(data)

    def file_ends(self) -> None:
        pass


def _require_identity(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise EncodedBody(f"a body with Content-Encoding {encoding[:40]!r} is not accepted")
