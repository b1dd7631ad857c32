"""Streams the pictures of a job's request body into the store, chunk by chunk."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import Request

from serving.errors import BadMultipart, EmptyBody
from serving.jobs.store import Store, WrittenBlob, new_blob
from serving.requests.body import body_timeout, limit_bytes, stream_body
from serving.requests.multipart import (
    FILE_FIELD,
    MAX_FIELD_BYTES,
    MAX_PARTS,
    FormLimits,
    FormParser,
    boundary_of,
)

FileEvent = str | bytes | None


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
    boundary = boundary_of(request.headers.get("content-type", ""))
    chunks = stream_body(request)
    try:
        async with body_timeout(limits.seconds):
            if boundary is None:
                await _store_one(limit_bytes(chunks, limits.max_bytes), "", store, inputs)
            else:
                await _store_form(boundary, chunks, store, inputs, limits)
    except BaseException:
        await store.delete(inputs.blobs)
        raise
    return inputs


async def _store_one(
    chunks: AsyncIterator[bytes], name: str, store: Store, inputs: StoredInputs
) -> None:
    blob = new_blob()
    written = await store.write(blob, chunks)
    inputs.pictures.append(StoredInput(blob=blob, name=name, written=written))
    if not written.bytes:
        raise EmptyBody("a picture is empty")


async def _store_form(
    boundary: bytes,
    chunks: AsyncIterator[bytes],
    store: Store,
    inputs: StoredInputs,
    limits: BodyLimits,
) -> None:
    """Store a form's files while later parts are still arriving."""
    files = _FileEvents()
    form_limits = FormLimits(
        max_parts=MAX_PARTS + limits.max_pictures,
        too_many_parts="the form has too many parts",
        field_too_long=f"a field has more than {MAX_FIELD_BYTES} bytes",
    )
    parser = FormParser(boundary, files, form_limits)
    events = _parsed(chunks, parser, files)
    async for name in events:
        if not isinstance(name, str):
            continue
        if len(inputs.pictures) >= limits.max_pictures:
            raise BadMultipart(f"a job takes at most {limits.max_pictures} pictures")
        picture = limit_bytes(_until_end(events), limits.max_bytes)
        await _store_one(picture, name, store, inputs)
    parser.finish()
    if not inputs.pictures:
        raise BadMultipart(f"the form must have a field {FILE_FIELD!r} with a picture")
    inputs.fields = parser.fields


class _FileEvents:
    """The files parsed and not yet taken: each its name, its chunks, and None at its end."""

    def __init__(self) -> None:
        self._events: list[FileEvent] = []

    def file_begins(self, name: str) -> None:
        self._events.append(name)

    def file_data(self, data: bytes) -> None:
        self._events.append(data)

    def file_ends(self) -> None:
        self._events.append(None)

    def take(self) -> list[FileEvent]:
        events, self._events = self._events, []
        return events


async def _parsed(
    chunks: AsyncIterator[bytes], parser: FormParser, files: _FileEvents
) -> AsyncGenerator[FileEvent]:
    async for chunk in chunks:
        parser.write(chunk)
        for event in files.take():
            yield event


async def _until_end(events: AsyncIterator[FileEvent]) -> AsyncGenerator[bytes]:
    async for event in events:
        if not isinstance(event, bytes):
            return
        yield event
