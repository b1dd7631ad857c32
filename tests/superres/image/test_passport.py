import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from superres.image.codecs import OUTPUT_FORMATS, Picture, PictureError, decode, encode
from superres.image.passport import (
    KEYWORD,
    MAX_BYTES,
    MAX_STEPS,
    DamagedPassport,
    Passport,
    Step,
    earlier_passport,
    extended,
    parse,
    read_passport,
    xmp_packet,
)
from superres.image.png_chunks import SIGNATURE, chunk

BUNDLE = "0123456789abcdef" * 4


def step(model="compact_x4", **changes):
    return Step(**{"model": model, "version": "3", "bundle": BUNDLE, "request": "r-1", **changes})


def picture(passport, *, bits=8, grey=False):
    dtype = np.uint8 if bits == 8 else np.uint16
    rgb_hwc = np.random.default_rng(0).integers(0, 200, (9, 11, 3)).astype(dtype)
    rgb_hwc = rgb_hwc[..., :1].repeat(3, axis=2) if grey else rgb_hwc
    text = None if passport is None else passport.text()
    return Picture(rgb_hwc=rgb_hwc, grey=grey, passport=text)


def png_with(kind, body):
    """A PNG with one more chunk after its header."""
    plain = encode(picture(None), "png")
    header_end = len(SIGNATURE) + 25
    return plain[:header_end] + chunk(kind, body) + plain[header_end:]


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("grey", [False, True])
def test_every_format_carries_a_passport_and_the_same_pixels(format, bits, grey):
    passport = extended(None, step(did=("enlarged x4", 'odd <&>" words')))
    subject = picture(passport, bits=bits, grey=grey)
    data, plain = encode(subject, format), encode(replace(subject, passport=None), format)
    assert read_passport(data) == passport
    assert read_passport(plain) is None
    assert np.array_equal(decode(data).rgb_hwc, decode(plain).rgb_hwc)


def test_profile_and_resolution_are_kept_beside_the_passport():
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    subject = replace(picture(extended(None, step())), icc=icc, dpi=(300.0, 300.0))
    for format in OUTPUT_FORMATS:
        image = Image.open(io.BytesIO(encode(subject, format)))
        assert image.info["icc_profile"] == icc, format
        if format in ("png", "jpeg", "tiff"):
            assert [round(float(value)) for value in image.info["dpi"]] == [300, 300]


def test_a_picture_sent_again_extends_the_chain():
    first = extended(None, step("dejpeg"))
    second = extended(read_passport(encode(picture(first), "jpeg")), step("compact_x4"))
    again = read_passport(encode(picture(second), "webp"))
    assert [each.model for each in again.chain] == ["dejpeg", "compact_x4"]
    assert again.last.model == "compact_x4"
    assert again.header() == f"dejpeg@{BUNDLE[:12]}, compact_x4@{BUNDLE[:12]}"


def test_the_chain_has_a_maximum_length():
    passport = None
    for number in range(MAX_STEPS + 5):
        passport = extended(passport, step(f"m{number}", did=("once",)))
    assert len(passport.chain) == MAX_STEPS
    assert passport.last.model == f"m{MAX_STEPS + 4}"


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
def test_the_longest_passport_fits_into_every_format(format):
    passport = None
    for number in range(MAX_STEPS):
        passport = extended(passport, step(f"m{number}", did=('&"' * 100,) * 8))
    assert 1 < len(passport.chain) < MAX_STEPS
    assert read_passport(encode(picture(passport), format)) == passport


def test_pillow_shows_the_passport_as_text_to_other_programs():
    image = Image.open(io.BytesIO(encode(picture(extended(None, step())), "png")))
    assert '"model":"compact_x4"' in image.text[KEYWORD]
    xmp = Image.open(io.BytesIO(encode(picture(extended(None, step())), "jpeg"))).info["xmp"]
    assert b"sharpline:Passport" in xmp


def test_a_passport_rewritten_by_another_program_is_read():
    text = extended(None, step()).text().encode()
    as_text = png_with(b"tEXt", KEYWORD.encode() + b"\0" + text)
    after_pixels = encode(picture(None), "png")[:-12] + chunk(
        b"iTXt", KEYWORD.encode() + b"\0\0\0en\0Passport\0" + text
    )
    for data in (as_text, after_pixels + chunk(b"IEND", b"")):
        assert read_passport(data).last.bundle == BUNDLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"service":"sharpline","chain":[]}',
        '{"service":"other","chain":[]}',
        f'{{"chain":[{{"model":"a\\r\\nCookie: b","version":"1","bundle":"{BUNDLE}"}}]}}',
        '{"chain":[{"model":"a","version":"1","bundle":"../../etc/passwd"}]}',
        "x" * (MAX_BYTES + 1),
        "[" * 20_000,
    ],
)
def test_a_damaged_passport_is_refused(text):
    with pytest.raises(DamagedPassport, match="damaged"):
        parse(text)
    data = png_with(b"iTXt", KEYWORD.encode() + b"\0\0\0\0\0" + text.encode())
    with pytest.raises(DamagedPassport):
        read_passport(data)
    assert earlier_passport(data) is None
    assert decode(data).height == 9


def test_a_compressed_or_cut_passport_is_damaged():
    with pytest.raises(DamagedPassport, match="compressed"):
        read_passport(png_with(b"iTXt", KEYWORD.encode() + b"\0\1\0\0\0x"))
    whole = encode(picture(extended(None, step())), "png")
    with pytest.raises(DamagedPassport):
        read_passport(whole[: whole.index(b'"version"') + 4])


def test_other_data_has_no_passport():
    with pytest.raises(PictureError):
        read_passport(b"no picture at all, but long enough")
    with pytest.raises(PictureError):
        read_passport(xmp_packet(extended(None, step()).text()))


def test_unknown_keys_are_ignored():
    text = extended(None, step()).text().replace('"chain"', '"later":1,"chain"')
    assert isinstance(parse(text), Passport)
