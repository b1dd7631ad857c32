import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadMultipart, EmptyBody
from serving.requests.body import unpack
from serving.requests.multipart import MAX_PARTS

FORM = "multipart/form-data; boundary=b"


def part(name, content, filename=None):
    file = f'; filename="{filename}"' if filename is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


@given(st.binary(max_size=300))
def test_body_of_any_other_type_is_the_picture(data):
    assert unpack("image/png", data).data == data
    assert unpack("", data).data == data


@given(st.binary(min_size=1, max_size=300).filter(lambda data: b"\r\n--b" not in data))
def test_file_of_a_form_is_unpacked_unchanged(data):
    upload = unpack(FORM, part("file", data, "cat.png") + b"--b--\r\n")
    assert upload.data == data
    assert upload.name == "cat.png"


def test_other_form_fields_are_options():
    body = part("model", b"compact_x2") + part("file", b"x") + part("quality", b"80") + b"--b--\r\n"
    assert unpack(FORM, body).fields == {"model": "compact_x2", "quality": "80"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "ends before"),
        (part("file", b"x"), "ends before"),
        (b"--c\r\n\r\nx\r\n--c--\r\n", "cannot be read"),
        (part("picture", b"x") + b"--b--\r\n", "has 0"),
        (part("file", b"x") + part("file", b"y") + b"--b--\r\n", "has 2"),
        (part("x", b"y") * (MAX_PARTS + 1) + b"--b--\r\n", "more than 32 parts"),
        (part("comment", b"y" * 5000) + b"--b--\r\n", "more than 4096 bytes"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "has 0"),
        (b"--b\r\n" + b"X: y\r\n" * 50 + b"\r\nx\r\n--b--\r\n", "cannot be read"),
    ],
)
def test_form_without_exactly_one_picture_is_refused(body, reason):
    with pytest.raises(BadMultipart, match=reason):
        unpack(FORM, body)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 1000,
    ],
)
def test_bad_boundary_is_refused(content_type):
    with pytest.raises(BadMultipart):
        unpack(content_type, part("file", b"x") + b"--b--\r\n")


def test_empty_file_is_distinguished_from_a_missing_one():
    with pytest.raises(EmptyBody):
        unpack(FORM, part("file", b"", "cat.png") + b"--b--\r\n")


@given(st.binary(max_size=200))
def test_form_parser_raises_only_its_own_errors(data):
    with contextlib.suppress(BadMultipart, EmptyBody):
        unpack(FORM, b"--b" + data)
