"""Broken files, false headers, decompression bombs and unusual files: none gets a 5xx."""

import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from superres.image.codecs import Limits, decode

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (18, 26, 3), np.uint8)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width, height, depth=8, colour=2):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(width, height, *, depth=8, colour=2, rows=b"", extra=b"", end=True):
    ending = chunk(b"IEND", b"") if end else b""
    return (
        SIGNATURE
        + header(width, height, depth, colour)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + ending
    )


def rgb_png(*, extra=b"", end=True, pixels=RGB):
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return png(pixels.shape[1], pixels.shape[0], rows=rows, extra=extra, end=end)


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(mode="RGB"):
    return Image.fromarray(RGB).convert(mode)


def half(data):
    return data[: len(data) // 2]


def flipped_idat():
    data = bytearray(rgb_png())
    data[data.index(b"IDAT") + 40] ^= 0x55
    return bytes(data)


def wide_bomb():
    """20,000 x 20,000 pixels of one bit each: 50 MB of zeros in about 48 KB."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + 20_000 // 8)
    packed = b"".join(packer.compress(row * 1000) for _ in range(20)) + packer.flush()
    return (
        SIGNATURE
        + header(20_000, 20_000, depth=1, colour=0)
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


def text_bomb():
    return rgb_png(extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 80_000_000, 9)))


def profile_bomb():
    return rgb_png(extra=chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 80_000_000, 9)))


def many_texts():
    return rgb_png(extra=chunk(b"tEXt", b"k\0v") * 100_000)


def looping_tiff():
    data = bytearray(saved(picture(), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<H", data, start, 1)  # one entry, then a pointer back to this directory
    struct.pack_into("<I", data, start + 2 + 12, start)
    assert entries > 1
    return bytes(data)


def gif_with_wrong_size():
    data = bytearray(saved(picture("P"), "GIF"))
    struct.pack_into("<HH", data, 6, 65_535, 65_535)
    return bytes(data)


def avif_with_wrong_size():
    """The box `ispe` states 65,535 squared; the picture is small."""
    data = bytearray(saved(picture(), "AVIF"))
    struct.pack_into(">II", data, data.index(b"ispe") + 8, 65_535, 65_535)
    return bytes(data)


def deep_tiff(width, height):
    """A small TIFF whose header states this size."""
    data = bytearray(saved(Image.new("RGB", (4, 4)), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        offset = start + 2 + 12 * entry
        tag = struct.unpack_from("<H", data, offset)[0]
        if tag in (256, 257):
            struct.pack_into("<HII", data, offset + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


def many_scans():
    """A progressive JPEG, its last scan repeated 100,000 times; more pixels would take hours."""
    data = saved(Image.new("L", (400, 400)), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last_scan * 100_000 + b"\xff\xd9"


def video_appended():
    """A JPEG with a video appended, as phones write them; its bytes may look like scans."""
    return saved(picture(), "JPEG", quality=100) + b"\xff\xda\0\x08" * 1000


def zip_appended():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("payload.txt", "cargo")
    return rgb_png() + buffer.getvalue()


SVG = (
    b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b'<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>'
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"

REFUSED = {
    "1-bit PNG of 400 megapixels": (wide_bomb, 422, "too-many-pixels"),
    "header states 65535 squared": (lambda: png(65_535, 65_535), 422, "too-many-pixels"),
    "header states 2^31-1 squared": (lambda: png(2**31 - 1, 2**31 - 1), 422, "too-many-pixels"),
    "13000 squared": (lambda: png(13_000, 13_000), 422, "too-many-pixels"),
    "one side too long": (lambda: png(65_501, 1), 422, "too-many-pixels"),
    "GIF header states 65535 squared": (gif_with_wrong_size, 422, "too-many-pixels"),
    "BMP header states 2^31-1 squared": (
        lambda: (
            b"BM"
            + struct.pack("<IHHI", 90, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 1, 1, 0, 0)
            + b"\0" * 36
        ),
        422,
        "too-many-pixels",
    ),
    "text bomb": (text_bomb, 422, "broken-picture"),
    "colour profile bomb": (profile_bomb, 422, "broken-picture"),
    "100,000 text chunks": (many_texts, 422, "broken-picture"),
    "100,000 scans": (many_scans, 422, "broken-picture"),
    "zero width": (lambda: png(0, 5), 422, "broken-picture"),
    "zero height": (lambda: png(5, 0), 422, "broken-picture"),
    "half a PNG": (lambda: half(rgb_png()), 422, "broken-picture"),
    "half a JPEG": (lambda: half(saved(picture(), "JPEG")), 422, "broken-picture"),
    "half a WebP": (lambda: half(saved(picture(), "WEBP")), 422, "broken-picture"),
    "half an AVIF": (lambda: half(saved(picture(), "AVIF")), 422, "broken-picture"),
    "AVIF whose boxes state a wrong size": (avif_with_wrong_size, 422, "broken-picture"),
    "AVIF brand only": (lambda: b"\0\0\0\x1cftypavif" + b"\0" * 40, 422, "broken-picture"),
    "MP4 video": (lambda: b"\0\0\0\x1cftypisom" + b"\0" * 40, 415, "not-a-picture"),
    "TIFF header states 2^31-1 squared": (
        lambda: deep_tiff(2**31 - 1, 2**31 - 1),
        422,
        "too-many-pixels",
    ),
    "half a GIF": (lambda: half(saved(picture("P"), "GIF")), 422, "broken-picture"),
    "half a TIFF": (lambda: half(saved(picture(), "TIFF")), 422, "broken-picture"),
    "half a BMP": (lambda: half(saved(picture(), "BMP")), 422, "broken-picture"),
    "flipped byte in IDAT": (flipped_idat, 422, "broken-picture"),
    "invalid colour type": (lambda: png(4, 4, colour=5), 422, "broken-picture"),
    "invalid bit depth": (lambda: png(4, 4, depth=7), 422, "broken-picture"),
    "PNG without pixels": (
        lambda: SIGNATURE + header(4, 4) + chunk(b"IEND", b""),
        422,
        "broken-picture",
    ),
    "TIFF whose directory points at itself": (looping_tiff, 422, "broken-picture"),
    "TIFF of floats": (lambda: saved(picture("L").convert("F"), "TIFF"), 422, "broken-picture"),
    "empty body": (lambda: b"", 400, "empty-body"),
    "PNG signature only": (lambda: SIGNATURE, 415, "not-a-picture"),
    "JPEG signature only": (lambda: b"\xff\xd8\xff", 415, "not-a-picture"),
    "WAVE audio": (
        lambda: b"RIFF" + b"\0" * 4 + b"WAVE" + b"\0" * 60,
        415,
        "not-a-picture",
    ),
    "noise": (lambda: RNG.bytes(5000), 415, "not-a-picture"),
    "HTML": (lambda: b"<html><script>alert(1)</script></html>", 415, "not-a-picture"),
    "SVG with an external entity": (lambda: SVG, 415, "not-a-picture"),
    "EPS that reads files": (lambda: EPS, 415, "not-a-picture"),
    "PDF": (lambda: b"%PDF-1.7\n" + b"\0" * 100, 415, "not-a-picture"),
    "ZIP": (lambda: zip_appended()[len(rgb_png()) :], 415, "not-a-picture"),
    "pickle": (lambda: pickle.dumps(print) + b"\0" * 40, 415, "not-a-picture"),
    "answer over the limit": (
        lambda: saved(Image.new("RGB", (600, 600)), "PNG"),
        422,
        "output-too-large",
    ),
    "body over the limit": (lambda: b"\0" * 4_000_001, 413, "too-many-bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_input_is_refused(hostile_server, name):
    make, status, label = REFUSED[name]
    answer = hostile_server.client.post("/v1/enhance", content=make())
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == f"/problems/{label}"
    assert answer.json()["status"] == status
    assert "Traceback" not in answer.text


def upright(orientation):
    """RGB as displayed with an EXIF orientation, as the EXIF standard defines it."""
    turned = RGB.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else RGB
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    return turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(), "PNG", exif=exif)


def grey_of(samples):
    return np.repeat(samples[..., None], 3, axis=2)


DEEP_GREY = RNG.integers(0, 65_536, (9, 11), np.uint16)
ONE_BIT = RNG.integers(0, 2, (9, 11), np.uint8) * 255
PALETTE = picture().quantize(16)


def transparent_palette():
    return saved(PALETTE, "PNG", transparency=3)


def animated(format):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    return saved(
        frames[0],
        format,
        save_all=True,
        append_images=frames[1:],
        duration=50,
        **({"lossless": True} if format == "WEBP" else {}),
    )


def first_frame(data):
    image = Image.open(io.BytesIO(data))
    image.seek(0)
    return np.asarray(image.convert("RGB"))


def pillow_rgb(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


AVIF = saved(picture(), "AVIF", quality=90)
CMYK_JPEG = saved(picture("CMYK"), "JPEG", quality=95)
GIF = animated("GIF")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

ACCEPTED = {
    **{
        f"EXIF orientation {number}": (lambda number=number: oriented(number), upright(number))
        for number in range(1, 9)
    },
    "EXIF orientation 99": (lambda: oriented(99), RGB),
    "TIFF without a file name": (lambda: saved(picture(), "TIFF"), RGB),
    "BMP without a file name": (lambda: saved(picture(), "BMP"), RGB),
    "AVIF": (lambda: AVIF, pillow_rgb(AVIF)),
    "no IEND": (lambda: rgb_png(end=False), RGB),
    "ZIP appended to a PNG": (zip_appended, RGB),
    "megabyte of zeros appended to a PNG": (lambda: rgb_png() + b"\0" * 1_000_000, RGB),
    "video appended to a JPEG": (video_appended, pillow_rgb(video_appended())),
    "CMYK JPEG": (lambda: CMYK_JPEG, pillow_rgb(CMYK_JPEG)),
    "animated GIF": (lambda: GIF, first_frame(GIF)),
    "animated PNG": (lambda: animated("PNG"), RGB),
    "animated WebP": (lambda: animated("WEBP"), RGB),
    "grey with alpha": (lambda: saved(picture("LA"), "PNG"), grey_of(np.asarray(picture("L")))),
    "16-bit grey": (lambda: saved(Image.fromarray(DEEP_GREY), "PNG"), grey_of(DEEP_GREY)),
    "1-bit": (lambda: saved(Image.fromarray(ONE_BIT).convert("1"), "PNG"), grey_of(ONE_BIT)),
    "palette": (lambda: saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "palette with a transparent colour": (transparent_palette, np.asarray(PALETTE.convert("RGB"))),
    "garbage ICC profile": (lambda: saved(picture(), "PNG", icc_profile=b"junk" * 50), RGB),
    "sRGB ICC profile": (lambda: saved(picture(), "PNG", icc_profile=SRGB), RGB),
    "one pixel": (lambda: rgb_png(pixels=RGB[:1, :1]), RGB[:1, :1]),
    "one row of 65,500": (
        lambda: rgb_png(pixels=np.resize(RGB, (1, 65_500, 3))),
        np.resize(RGB, (1, 65_500, 3)),
    ),
    "one column": (
        lambda: rgb_png(pixels=np.resize(RGB, (700, 1, 3))),
        np.resize(RGB, (700, 1, 3)),
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_unusual_picture_is_answered_with_correct_pixels(hostile_server, name):
    make, rgb_hwc = ACCEPTED[name]
    answer = hostile_server.client.post("/v1/enhance", params={"format": "png"}, content=make())
    assert answer.status_code == 200, answer.text
    large = decode(answer.content, limits=Limits(max_side=200_000))
    expected = rgb_hwc.repeat(2, axis=0).repeat(2, axis=1).astype(int)
    assert large.rgb_hwc.shape == expected.shape
    assert np.abs(large.rgb_hwc - expected).max() <= (1 if large.bit_depth == 16 else 0)
    assert answer.content.endswith(chunk(b"IEND", b"")), "the answer has no appended data"
    assert Image.open(io.BytesIO(answer.content)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(("format", "width"), [("webp", 8192), ("jpeg", 32_751)])
def test_format_that_cannot_hold_the_answer_is_refused(hostile_server, format, width):
    data = rgb_png(pixels=np.zeros((1, width, 3), np.uint8))
    answer = hostile_server.client.post("/v1/enhance", params={"format": format}, content=data)
    assert answer.status_code == 406
    assert answer.json()["type"] == "/problems/format-cannot-hold"


PART = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "label"),
    [
        (FORM, PART * 10_000 + b"--b--\r\n", 400, "bad-multipart"),
        ({"Content-Type": "multipart/form-data"}, PART + b"--b--\r\n", 400, "bad-multipart"),
        ({"Content-Type": "multipart/form-data; boundary=c"}, PART, 400, "bad-multipart"),
        (
            {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000},
            PART,
            400,
            "bad-multipart",
        ),
        (FORM, PART, 400, "bad-multipart"),
        (FORM, b"--b\r\n" + b"A" * 100_000 + b": x\r\n\r\n", 400, "bad-multipart"),
        ({"Content-Encoding": "gzip"}, zlib.compress(b"\0" * 10**7), 415, "encoded-body"),
        ({"Content-Encoding": "br"}, b"anything", 415, "encoded-body"),
    ],
)
def test_hostile_multipart_or_encoding_is_refused(hostile_server, headers, body, status, label):
    answer = hostile_server.client.post("/v1/enhance", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["type"] == f"/problems/{label}"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd.png", "passwd.png"),
        ("..\\..\\boot.png", "boot.png"),
        ("a\r\nSet-Cookie: x.png", "_a.png"),
        ("a\x00b.png", "a_b.png"),
        (".png", "png.png"),
        ("/", "picture.png"),
        ("x" * 500 + ".png", "x" * 100),
        ('a"; filename=b.png', "a_"),
    ],
)
def test_file_name_is_sanitized_and_never_a_path(hostile_server, given, kept):
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'
    escaped = given.replace("\\", "\\\\").replace('"', '\\"').encode()
    body = head % escaped + rgb_png() + b"\r\n--b--\r\n"
    answer = hostile_server.client.post("/v1/enhance", content=body, headers=FORM)
    assert answer.status_code == 200, answer.text
    disposition = answer.headers["Content-Disposition"]
    assert disposition.startswith(f'attachment; filename="{kept}')
    assert disposition.count('"') == 2
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("name", ["picture.png", "picture.exe", "picture.svg", ""])
@pytest.mark.parametrize("format", ["TIFF", "BMP", "GIF"])
def test_format_follows_the_content_not_the_file_name(hostile_server, format, name):
    files = {"file": (name or None, saved(picture("P" if format == "GIF" else "RGB"), format))}
    answer = hostile_server.client.post("/v1/enhance", params={"format": "png"}, files=files)
    assert answer.status_code == 200, answer.text


def test_html_is_refused_whatever_its_name_and_type(hostile_server):
    files = {"file": ("cat.jpg", b"<html><script>alert(1)</script></html>", "image/jpeg")}
    answer = hostile_server.client.post("/v1/enhance", files=files)
    assert answer.status_code == 415
    assert "script" not in answer.text


def test_server_still_works_after_hostile_inputs(hostile_server):
    assert hostile_server.client.get("/livez").status_code == 200
    answer = hostile_server.client.post("/v1/enhance", content=rgb_png())
    assert np.array_equal(decode(answer.content).rgb_hwc[::2, ::2], RGB)
    hostile_server.wait_for(lambda: hostile_server.services.pictures.admission.in_flight == 0)
    metrics = hostile_server.client.get("/metrics").text
    assert 'route="/v1/enhance",status="5' not in metrics
