"""Job bodies are stored completely, or refused without leaving blobs."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from serving.errors import BadMultipart, ClientGone, EmptyBody, EncodedBody, SlowBody
from serving.jobs.intake import BodyLimits, store_inputs
from serving.jobs.store import FolderStore, read_all
from serving.requests.multipart import MAX_FIELD_BYTES, MAX_PARTS
from superres.image.codecs import TooManyBytes

FORM = "multipart/form-data; boundary=b"
LIMITS = BodyLimits(max_bytes=1000, max_pictures=3, seconds=30)


def part(name, content, filename=None):
    file = f'; filename="{filename}"' if filename is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def request(messages, content_type=FORM, encoding=None):
    """A request whose body arrives in these messages; after the last one `receive` blocks."""
    waiting = list(messages)

    async def receive():
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    headers = [(b"content-type", content_type.encode())]
    if encoding is not None:
        headers.append((b"content-encoding", encoding.encode()))
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def body(*chunks, more=False):
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    return messages if more else [*messages, {"type": "http.request", "body": b""}]


def stored(folder, incoming, limits=LIMITS):
    """What is stored of a request: [(name, bytes)] of its pictures, and its fields."""
    store = FolderStore(folder)

    async def store_all():
        inputs = await store_inputs(incoming, store, limits)
        stored_pictures = [
            (each.name, await read_all(store, each.blob)) for each in inputs.pictures
        ]
        return stored_pictures, inputs.fields

    return asyncio.run(store_all())


@given(
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=3),
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
)
def test_form_is_parsed_alike_for_any_chunking(tmp_path_factory, pictures, cuts):
    pictures = [each.replace(b"\r\n--b", b"") or b"x" for each in pictures]
    form = part("scale", b"2")
    form += b"".join(part("file", each, f"{n}.png") for n, each in enumerate(pictures))
    form += part("format", b"webp") + b"--b--\r\n"
    chunks, start = [], 0
    while start < len(form):
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(form[start : start + size])
        start += size
    stored_pictures, fields = stored(tmp_path_factory.mktemp("cut"), request(body(*chunks)))
    assert stored_pictures == [(f"{n}.png", each) for n, each in enumerate(pictures)]
    assert fields == {"scale": "2", "format": "webp"}


def test_any_other_body_is_the_picture(tmp_path):
    assert stored(tmp_path, request(body(b"ab", b"", b"c"), "image/png")) == ([("", b"abc")], {})


FILE = part("file", b"x", "a.png")


@pytest.mark.parametrize(
    ("incoming", "error"),
    [
        (request(body(), "image/png"), EmptyBody),
        (request(body(b"x" * 1001), "image/png"), TooManyBytes),
        (request(body(b"x"), "image/png", encoding="gzip"), EncodedBody),
        (request([*body(b"x", more=True), {"type": "http.disconnect"}], "image/png"), ClientGone),
        (request(body(b"x"), "multipart/form-data"), BadMultipart),
        (request(body(b"--c\r\n\r\nx\r\n--c--\r\n")), BadMultipart),
        (request(body(FILE)), BadMultipart),
        (request(body(FILE, b"--b\r\nContent-")), BadMultipart),
        (request(body(FILE, b"--b\r\n", b"X: y\r\n" * 50)), BadMultipart),
        (request(body(FILE * 4, b"--b--\r\n")), BadMultipart),
        (request(body(FILE, part("file", b""), b"--b--\r\n")), EmptyBody),
        (request(body(FILE, part("file", b"x" * 1001), b"--b--\r\n")), TooManyBytes),
        (request(body(FILE, part("a", b"x") * (MAX_PARTS + 4), b"--b--\r\n")), BadMultipart),
        (request(body(FILE, part("a", b"x" * (MAX_FIELD_BYTES + 1)), b"--b--\r\n")), BadMultipart),
        (request(body(part("a", b"x"), b"--b--\r\n")), BadMultipart),
        (request([*body(FILE, more=True), {"type": "http.disconnect"}]), ClientGone),
    ],
)
def test_refused_body_leaves_no_blob(tmp_path, incoming, error):
    with pytest.raises(error):
        stored(tmp_path, incoming)
    assert asyncio.run(FolderStore(tmp_path).change_markers()) == {}


def test_slow_body_times_out(tmp_path):
    short_timeout = BodyLimits(max_bytes=1000, max_pictures=3, seconds=0.05)
    for incoming in (request(body(FILE, more=True)), request(body(b"x", more=True), "image/png")):
        with pytest.raises(SlowBody):
            stored(tmp_path, incoming, short_timeout)
    assert asyncio.run(FolderStore(tmp_path).change_markers()) == {}
