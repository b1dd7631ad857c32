"""Reads a request's body within its limits, and parses multipart forms."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from serving.errors import BadMultipart, ClientGone, EmptyBody, EncodedBody, SlowBody

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 32
MAX_FIELD_BYTES = 4096
FILE_FIELD = "file"


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
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise EncodedBody(f"a body with Content-Encoding {encoding[:40]!r} is not accepted")
    declared = request.headers.get("content-length", "")
    declared_bytes = int(declared) if declared.isdigit() else 0
    budget.reserve_bytes(declared_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_seconds):
            async for chunk in request.stream():
                budget.reserve_bytes(max(0, len(body) + len(chunk) - budget.bytes))
                body += chunk
    except TimeoutError:
        raise SlowBody(f"the body did not arrive within {timeout_seconds:g} seconds") from None
    except ClientDisconnect:
        raise ClientGone("the client disconnected before its body had arrived") from None
    if not body:
        raise EmptyBody("the body is empty")
    return bytes(body)


def unpack(content_type: str, body: bytes) -> Upload:
    """Extract the picture: the body itself, or the field `file` of a multipart form.

    Raises BadMultipart, or EmptyBody for an empty file.
    """
    media_type, parameters = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        return Upload(data=body)
    boundary = parameters.get(b"boundary", b"")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadMultipart(f"the multipart body cannot be read: {error}") from error
    return form.upload()


class _Form:
    """Collects the parts of a form from the parser's callbacks."""

    def __init__(self) -> None:
        self._parts = 0
        self._ended = False
        self._header_name = b""
        self._header_value = b""
        self._disposition: dict[bytes, bytes] = {}
        self._content = bytearray()
        self._files: list[tuple[str, bytes]] = []
        self._fields: dict[str, str] = {}

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_part_data": self._on_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def upload(self) -> Upload:
        if not self._ended:
            raise BadMultipart("the multipart body ends before its last boundary")
        if len(self._files) != 1:
            raise BadMultipart(
                f"the form must have exactly one field {FILE_FIELD!r}, with the picture; "
                f"it has {len(self._files)}"
            )
        name, data = self._files[0]
        if not data:
            raise EmptyBody(f"the field {FILE_FIELD!r} is empty")
        return Upload(data=data, name=name, fields=self._fields)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadMultipart(f"the form has more than {MAX_PARTS} parts")
        self._disposition = {}
        self._content = bytearray()

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = parse_options_header(self._header_value)[1]
        self._header_name = self._header_value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]
        if self._field_name != FILE_FIELD and len(self._content) > MAX_FIELD_BYTES:
            raise BadMultipart(
                f"the field {self._field_name[:40]!r} has more than "
                f"{MAX_FIELD_BYTES} bytes; the picture goes into {FILE_FIELD!r}"
            )

    def _end_part(self) -> None:
        if self._field_name == FILE_FIELD:
            name = self._disposition.get(b"filename", b"").decode("utf-8", "replace")
            self._files.append((name, bytes(self._content)))
        else:
            self._fields[self._field_name] = self._content.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True

    @property
    def _field_name(self) -> str:
        return self._disposition.get(b"name", b"").decode("utf-8", "replace")
