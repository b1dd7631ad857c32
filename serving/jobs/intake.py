"""Streams the pictures of a job's request body into the store, chunk by chunk."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from serving.errors import BadMultipart, ClientGone, EmptyBody, EncodedBody, SlowBody
from serving.jobs.store import Store, WrittenBlob, new_blob
from serving.requests.body import FILE_FIELD, MAX_FIELD_BYTES, MAX_PARTS
from superres.image.codecs import TooManyBytes

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInput:
    """One stored picture; `name` is the client's file name."""

    blob: str
    name: str
    written: WrittenBlob


@dataclass(slots=True)
class StoredInputs:
    """Pictures and form fields of one body; the caller deletes the blobs if there is no job."""

    pictures: list[StoredInput] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def blobs(self) -> list[str]:
        return [each.blob for each in self.pictures]


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Limits of one body: bytes of each picture, number of pictures, seconds to receive it."""

    max_bytes: int
    max_pictures: int
    seconds: float


async def store_inputs(request: Request, store: Store, limits: BodyLimits) -> StoredInputs:
    """Store the pictures of a body: the body itself, or every form field `file`; all or none.

    Raises EncodedBody, TooManyBytes, SlowBody, EmptyBody, BadMultipart, ClientGone, StorageFull.
    """
    inputs = StoredInputs()
    media_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    try:
        async with asyncio.timeout(limits.seconds):
            if media_type == b"multipart/form-data":
                form = _StreamedForm(parameters.get(b"boundary", b""), limits)
                await form.store(stream_body(request), store, inputs)
            else:
                chunks = limit_bytes(stream_body(request), limits.max_bytes)
                await _store_one(chunks, "", store, inputs)
    except BaseException as error:
        await store.delete(inputs.blobs)
        if isinstance(error, TimeoutError):
            raise SlowBody(f"the body did not arrive within {limits.seconds:g} seconds") from None
        raise
    return inputs


async def stream_body(request: Request) -> AsyncGenerator[bytes]:
    """A request's body as it arrives. Raises EncodedBody and ClientGone."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise EncodedBody(f"a body with Content-Encoding {encoding[:40]!r} is not accepted")
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
            raise TooManyBytes(f"a picture has more than the {max_bytes:,} bytes allowed")
        yield chunk


async def _store_one(
    chunks: AsyncIterator[bytes], name: str, store: Store, inputs: StoredInputs
) -> None:
    blob = new_blob()
    written = await store.write(blob, chunks)
    inputs.pictures.append(StoredInput(blob=blob, name=name, written=written))
    if not written.bytes:
        raise EmptyBody("a picture is empty")


class _StreamedForm:
    """A multipart form whose files are stored while later parts are still arriving."""

    def __init__(self, boundary: bytes, limits: BodyLimits) -> None:
        self._limits = limits
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition: dict[bytes, bytes] = {}
        self._content = bytearray()
        self._ended = False
        self._parsed: list[tuple[str, bytes]] = []  # "begin", "data" and "end" events of files
        self._fields: dict[str, str] = {}
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise BadMultipart(f"the multipart body cannot be read: {error}") from error

    async def store(self, chunks: AsyncIterator[bytes], store: Store, inputs: StoredInputs) -> None:
        """Put the form's files into the store, and both files and fields into `inputs`."""
        events = self._events(chunks)
        async for kind, value in events:
            if kind != "begin":
                continue
            if len(inputs.pictures) >= self._limits.max_pictures:
                raise BadMultipart(f"a job takes at most {self._limits.max_pictures} pictures")
            picture = limit_bytes(_until_end(events), self._limits.max_bytes)
            await _store_one(picture, value.decode("utf-8", "replace"), store, inputs)
        if not self._ended:
            raise BadMultipart("the multipart body ends before its last boundary")
        if not inputs.pictures:
            raise BadMultipart(f"the form must have a field {FILE_FIELD!r} with a picture")
        inputs.fields = self._fields

    async def _events(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, bytes]]:
        async for chunk in chunks:
            self._parse(chunk)
            parsed, self._parsed = self._parsed, []
            for event in parsed:
                yield event
        try:
            self._parser.finalize()
        except FormParserError as error:
            raise BadMultipart(f"the multipart body cannot be read: {error}") from error

    def _parse(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadMultipart(f"the multipart body cannot be read: {error}") from error

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS + self._limits.max_pictures:
            raise BadMultipart("the form has too many parts")
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

    def _on_headers(self) -> None:
        if self._is_file:
            self._parsed.append(("begin", self._disposition.get(b"filename", b"")))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._parsed.append(("data", data[start:end]))
            return
        self._content += data[start:end]
        if len(self._content) > MAX_FIELD_BYTES:
            raise BadMultipart(f"a field has more than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._is_file:
            self._parsed.append(("end", b""))
            return
        name = self._disposition.get(b"name", b"").decode("utf-8", "replace")
        self._fields[name] = self._content.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True

    @property
    def _is_file(self) -> bool:
        return self._disposition.get(b"name", b"") == FILE_FIELD.encode()


async def _until_end(events: AsyncIterator[tuple[str, bytes]]) -> AsyncGenerator[bytes]:
    async for kind, value in events:
        if kind == "end":
            return
        yield value
