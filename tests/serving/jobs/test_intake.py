"""Bodies of jobs on their way into the store: whole or refused, and then nothing is left."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from serving.errors import BadMultipart, ClientGone, EmptyBody, EncodedBody, SlowBody
from serving.jobs.intake import BodyLimits, store_inputs
from serving.jobs.store import FolderStore, all_of
from serving.requests.body import MAX_FIELD_BYTES, MAX_PARTS
from superres.image.codecs import TooManyBytes

FORM = "multipart/form-data; boundary=b"
BOUNDS = BodyLimits(max_bytes=1000, max_pictures=3, seconds=30)


def part(name, content, filename=None):
    file = f'; filename="{filename}"' if filename is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def request(messages, content_type=FORM, encoding=None):
    """A request whose body arrives in these messages; after the last one nothing comes."""
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


def taken(folder, arriving, bounds=BOUNDS):
    """What came of a request: [(name, bytes)] of its pictures, and its fields."""
    store = FolderStore(folder)

    async def take():
        arrivals = await store_inputs(arriving, store, bounds)
        found = [(each.name, await all_of(store, each.blob)) for each in arrivals.pictures]
        return found, arrivals.fields

    return asyncio.run(take())


@given(
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=3),
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
)
def test_pictures_are_the_same_however_their_form_is_cut(tmp_path_factory, pictures, cuts):
    pictures = [each.replace(b"\r\n--b", b"") or b"x" for each in pictures]
    form = part("scale", b"2")
    form += b"".join(part("file", each, f"{n}.png") for n, each in enumerate(pictures))
    form += part("format", b"webp") + b"--b--\r\n"
    chunks, start = [], 0
    while start < len(form):
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(form[start : start + size])
        start += size
    found, fields = taken(tmp_path_factory.mktemp("cut"), request(body(*chunks)))
    assert found == [(f"{n}.png", each) for n, each in enumerate(pictures)]
    assert fields == {"scale": "2", "format": "webp"}


def test_any_other_body_is_the_picture(tmp_path):
    assert taken(tmp_path, request(body(b"ab", b"", b"c"), "image/png")) == ([("", b"abc")], {})


FILE = part("file", b"x", "a.png")


@pytest.mark.parametrize(
    ("arriving", "error"),
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
def test_body_that_is_refused_leaves_nothing(tmp_path, arriving, error):
    with pytest.raises(error):
        taken(tmp_path, arriving)
    assert asyncio.run(FolderStore(tmp_path).modified_times()) == {}


def test_body_that_does_not_come_is_given_up(tmp_path):
    quick = BodyLimits(max_bytes=1000, max_pictures=3, seconds=0.05)
    for arriving in (request(body(FILE, more=True)), request(body(b"x", more=True), "image/png")):
        with pytest.raises(SlowBody):
            taken(tmp_path, arriving, quick)
    assert asyncio.run(FolderStore(tmp_path).modified_times()) == {}
