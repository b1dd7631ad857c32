"""Pictures that arrive for a job: out of a body, straight into the store, chunk by chunk."""

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
    """One picture in the store, under the name that its client gave."""

    blob: str
    name: str
    written: WrittenBlob


@dataclass(slots=True)
class StoredInputs:
    """Everything of one body; whoever has it removes the blobs of what comes to nothing."""

    pictures: list[StoredInput] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def blobs(self) -> list[str]:
        return [each.blob for each in self.pictures]


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """What one body may be: bytes of each picture, pictures, seconds until it is there."""

    max_bytes: int
    max_pictures: int
    seconds: float


async def store_inputs(request: Request, store: Store, limits: BodyLimits) -> StoredInputs:
    """The pictures of a body, the body itself or every field `file` of a form; all or none stay.

    Raises EncodedBody, TooManyBytes, SlowBody, EmptyBody, BadMultipart, ClientGone, StorageFull.
    """
    arrivals = StoredInputs()
    media_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    try:
        async with asyncio.timeout(limits.seconds):
            if media_type == b"multipart/form-data":
                form = _StreamedForm(parameters.get(b"boundary", b""), limits)
                await form.store(body_of(request), store, arrivals)
            else:
                chunks = limited(body_of(request), limits.max_bytes)
                await _store_one(chunks, "", store, arrivals)
    except BaseException as error:
        await store.delete(arrivals.blobs)
        if isinstance(error, TimeoutError):
            raise SlowBody(f"the body was not there after {limits.seconds:g} seconds") from None
        raise
    return arrivals


async def body_of(request: Request) -> AsyncGenerator[bytes]:
    """A request's body as it arrives. Raises EncodedBody and ClientGone."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise EncodedBody(f"a body with Content-Encoding {encoding[:40]!r} is not taken")
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise ClientGone("the client went away before its body was there") from None


async def limited(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes]:
    """The chunks, of at most so many bytes together. Raises TooManyBytes."""
    count = 0
    async for chunk in chunks:
        count += len(chunk)
        if count > max_bytes:
            raise TooManyBytes(f"a picture has more than the {max_bytes:,} bytes that are taken")
        yield chunk


async def _store_one(
    chunks: AsyncIterator[bytes], name: str, store: Store, arrivals: StoredInputs
) -> None:
    blob = new_blob()
    written = await store.write(blob, chunks)
    arrivals.pictures.append(StoredInput(blob=blob, name=name, written=written))
    if not written.bytes:
        raise EmptyBody("a picture is empty")


class _StreamedForm:
    """A form whose files go to the store while later parts are still on their way."""

    def __init__(self, boundary: bytes, limits: BodyLimits) -> None:
        self._limits = limits
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition: dict[bytes, bytes] = {}
        self._content = bytearray()
        self._ended = False
        self._found: list[tuple[str, bytes]] = []  # begin, data, end of files, in their order
        self._fields: dict[str, str] = {}
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise BadMultipart(f"the multipart body cannot be read: {error}") from error

    async def store(
        self, chunks: AsyncIterator[bytes], store: Store, arrivals: StoredInputs
    ) -> None:
        """Everything of the form into the store and `arrivals`."""
        events = self._events(chunks)
        async for kind, value in events:
            if kind != "begin":
                continue
            if len(arrivals.pictures) >= self._limits.max_pictures:
                raise BadMultipart(f"at most {self._limits.max_pictures} pictures make one job")
            picture = limited(_until_end(events), self._limits.max_bytes)
            await _store_one(picture, value.decode("utf-8", "replace"), store, arrivals)
        if not self._ended:
            raise BadMultipart("the multipart body ends before its last boundary")
        if not arrivals.pictures:
            raise BadMultipart(f"the form must have a field {FILE_FIELD!r} with a picture")
        arrivals.fields = self._fields

    async def _events(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, bytes]]:
        async for chunk in chunks:
            self._parse(chunk)
            found, self._found = self._found, []
            for event in found:
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
            self._found.append(("begin", self._disposition.get(b"filename", b"")))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._found.append(("data", data[start:end]))
            return
        self._content += data[start:end]
        if len(self._content) > MAX_FIELD_BYTES:
            raise BadMultipart(f"a field has more than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._is_file:
            self._found.append(("end", b""))
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
