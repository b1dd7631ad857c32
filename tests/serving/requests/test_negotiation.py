import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import NotAcceptable
from serving.requests.negotiation import choose_format, content_disposition


@pytest.mark.parametrize(
    ("requested", "accept", "of_input", "expected"),
    [
        ("webp", "image/png", "jpeg", "webp"),
        (None, "", "jpeg", "jpeg"),
        (None, "", "tiff", "tiff"),
        (None, "", "bmp", "png"),
        (None, "*/*", "jpeg", "jpeg"),
        (None, "image/*", "webp", "webp"),
        (None, "*/*", "gif", "png"),
        (None, "image/webp", "png", "webp"),
        (None, "image/png;q=0.5, image/webp;q=0.9", "png", "webp"),
        (None, "image/avif, image/webp, image/*;q=0.8, */*;q=0.5", "jpeg", "webp"),
        (None, "image/png;q=0, */*", "png", "jpeg"),
        (None, "text/html, IMAGE/JPEG", "png", "jpeg"),
        (None, "image/jpeg;q=nonsense, image/png;q=0.1", "jpeg", "png"),
        (None, "application/problem+json, image/png", "jpeg", "png"),
    ],
)
def test_format_takes_precedence_over_accept_and_the_input(requested, accept, of_input, expected):
    assert choose_format(requested, accept, of_input) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/jxl", "image/*;q=0", "application/json"])
def test_accept_without_a_supported_format_is_refused(accept):
    with pytest.raises(NotAcceptable):
        choose_format(None, accept, "png")


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("cat.jpg", "png", "cat.png"),
        ("", "jpeg", "picture.jpg"),
        ("../../etc/passwd", "png", "passwd.png"),
        ("C:\\pictures\\cat.bmp", "webp", "cat.webp"),
        ("two words.png", "png", "two words.png"),
        ('a"b\r\nSet-Cookie: x=1.png', "png", "a_b__Set-Cookie_ x=1.png".replace("=", "_")),
    ],
)
def test_download_name_is_sanitized(name, format, expected):
    assert f'filename="{expected}"' in content_disposition(name, format)


def test_non_ascii_name_is_encoded():
    header = content_disposition("größe.png", "jpeg")
    assert header == "attachment; filename=\"gr__e.jpg\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.jpg"


@given(st.text(), st.sampled_from(["png", "jpeg", "webp"]))
def test_no_name_breaks_the_header(name, format):
    header = content_disposition(name, format)
    header.encode("ascii")
    assert all(character.isprintable() for character in header)
    assert header.count('"') == 2
    plain = header.split('"')[1]
    assert "/" not in plain
    assert "\\" not in plain
    assert not plain.startswith(".")
