"""Decoding and encoding: no silent loss, and invalid files are refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from superres.common.errors import SharplineError
from superres.image.codecs import (
    BrokenPicture,
    FormatCannotHold,
    Limits,
    NotAPicture,
    Picture,
    TooManyBytes,
    TooManyPixels,
    clean_name,
    decode,
    encode,
    inspect,
    list_pictures,
    read,
    write,
)
from superres.image.png_chunks import SIGNATURE, chunk

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def colours(height: int = 20, width: int = 30, channels: int = 3, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_pillow_opens_our_png() -> None:
    rgb = colours(300, 70)
    data = encode(Picture(rgb_hwc=rgb, dpi=(300, 300), icc=SRGB), "png")
    image = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(image), rgb)
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert image.info["icc_profile"] == SRGB


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_lossy_formats_come_close(format: str) -> None:
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 1, 3))
    for picture in (Picture(rgb_hwc=smooth), Picture(rgb_hwc=smooth, grey=True, icc=None)):
        back = decode(encode(picture, format, quality=95))
        assert np.abs(back.rgb_hwc.astype(int) - smooth).max() < 12
    deep = Picture(rgb_hwc=smooth.astype(np.uint16) * 257)
    assert np.abs(decode(encode(deep, format)).rgb_hwc.astype(int) - smooth).max() < 12


def test_webp_holds_alpha_and_profile() -> None:
    rgb, alpha = colours(), np.full((20, 30), 90, np.uint8)
    back = decode(encode(Picture(rgb_hwc=rgb, alpha_hw=alpha, icc=SRGB), "webp"))
    np.testing.assert_array_equal(back.alpha_hw, alpha)
    assert back.icc == SRGB
    grey = Picture(rgb_hwc=rgb[..., :1].repeat(3, 2), grey=True, alpha_hw=alpha)
    np.testing.assert_array_equal(decode(encode(grey, "webp")).alpha_hw, alpha)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied_once(orientation: int, format: str) -> None:
    """Equal to Pillow's transposition, and not applied again after encoding."""
    from PIL import ImageOps

    image = Image.fromarray(colours(16, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, format, exif=exif, quality=100)
    picture = decode(data)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(picture.rgb_hwc, np.asarray(expected))
    again = decode(encode(picture, "png"))
    np.testing.assert_array_equal(again.rgb_hwc, picture.rgb_hwc)


def test_rotation_swaps_dpi() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(colours()), "JPEG", exif=exif, dpi=(300, 150))
    assert decode(data).dpi == pytest.approx((150, 300), abs=0.1)


def test_modes_become_rgb_with_the_right_values() -> None:
    rgba = colours(channels=4)
    palette = Image.fromarray(colours() // 64 * 64).quantize(16)
    cases = [
        (Image.fromarray(rgba), rgba[..., :3], rgba[..., 3], False),
        (Image.fromarray(rgba[..., 0]), rgba[..., :1].repeat(3, 2), None, True),
        (
            Image.merge("LA", [Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])]),
            rgba[..., :1].repeat(3, 2),
            rgba[..., 3],
            True,
        ),
        (palette, np.asarray(palette.convert("RGB")), None, False),
        (
            Image.fromarray(rgba[..., 0] > 127),
            np.where(rgba[..., :1] > 127, 255, 0).repeat(3, 2),
            None,
            True,
        ),
    ]
    for image, rgb, alpha, grey in cases:
        picture = decode(saved(image))
        np.testing.assert_array_equal(picture.rgb_hwc, rgb)
        assert picture.grey == grey
        assert (picture.alpha_hw is None) == (alpha is None)
        if alpha is not None:
            np.testing.assert_array_equal(picture.alpha_hw, alpha)


def test_transparent_colours_become_alpha() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0] + [0] * 762)
    picture = decode(saved(image, transparency=1))
    np.testing.assert_array_equal(picture.alpha_hw, [[255, 0], [0, 255]])
    rgb = Image.fromarray(np.full((2, 2, 3), 9, np.uint8))
    picture = decode(saved(rgb, transparency=(9, 9, 9)))
    np.testing.assert_array_equal(picture.alpha_hw, np.zeros((2, 2)))
    grey = Image.fromarray(np.full((2, 2), 9, np.uint8))
    np.testing.assert_array_equal(decode(saved(grey, transparency=9)).alpha_hw, np.zeros((2, 2)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_becomes_alpha_at_every_depth(depth: int) -> None:
    clear = 1 if depth == 1 else 2
    values = (7 * np.arange(64).reshape(8, 8)) % 2**depth
    picture = decode(grey_png(values, depth, clear))
    full = 65_535 if depth == 16 else 255
    np.testing.assert_array_equal(
        picture.rgb_hwc[..., 0], values * (1 if depth == 16 else 255 // (2**depth - 1))
    )
    np.testing.assert_array_equal(picture.alpha_hw, np.where(values == clear, 0, full))
    assert picture.grey


def grey_png(values: np.ndarray, depth: int, clear: int) -> bytes:
    """A PNG of `depth` bits in which one grey is transparent."""
    height, width = values.shape
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width, 2), axis=2)
    rows = np.packbits(bits[:, :, 16 - depth :].reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"tRNS", struct.pack(">H", clear)), (b"IDAT", pixels))
    return SIGNATURE + b"".join(chunk(*one) for one in chunks) + chunk(b"IEND", b"")


def test_resolution_without_a_tag_is_none() -> None:
    image = Image.fromarray(colours())
    assert decode(saved(image, "TIFF")).dpi is None
    assert decode(saved(image, "TIFF", dpi=(300, 300))).dpi == (300.0, 300.0)


def test_unsupported_tiff_is_refused_with_a_clear_message() -> None:
    lab = pyvips.Image.new_from_array(colours()).copy(interpretation="srgb").colourspace("lab")
    with pytest.raises(BrokenPicture, match="this kind of tiff is not supported") as refused:
        decode(lab.tiffsave_buffer())
    assert "BytesIO" not in str(refused.value)


def test_broken_tiff_writes_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(saved(Image.fromarray(colours()), "TIFF", compression="jpeg"))
    data[data.index(b"\xff\xdb") + 4] = 0x0F  # an invalid quantization table number
    with pytest.raises(BrokenPicture):
        decode(bytes(data))
    assert capfd.readouterr().err == ""


def test_cmyk_jpeg_is_converted() -> None:
    cmyk = Image.fromarray(colours()).convert("CMYK")
    data = saved(cmyk, "JPEG", quality=100)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data).rgb_hwc, expected)
    garbage = b"\0" * 36 + b"acsp" + b"\0" * 200
    data = saved(cmyk, "JPEG", quality=100, icc_profile=garbage)
    np.testing.assert_array_equal(decode(data).rgb_hwc, expected)


def test_deep_grey_and_its_limits() -> None:
    deep = np.linspace(0, 65_535, 600).astype(np.uint16).reshape(20, 30)
    picture = decode(saved(Image.fromarray(deep)))
    assert picture.grey
    assert picture.bit_depth == 16
    np.testing.assert_array_equal(picture.rgb_hwc[..., 1], deep)
    tiff = saved(Image.fromarray(deep.astype(np.int32)), "TIFF")
    np.testing.assert_array_equal(decode(tiff).rgb_hwc[..., 0], deep)
    with pytest.raises(BrokenPicture, match="16 bits"):
        decode(saved(Image.fromarray(deep.astype(np.int32) - 5), "TIFF"))
    with pytest.raises(BrokenPicture, match="floating"):
        decode(saved(Image.fromarray(deep.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("profile", [b"garbage", SRGB[:200], b"\0" * 300])
def test_unusable_profiles_are_dropped(profile: bytes) -> None:
    picture = decode(saved(Image.fromarray(colours()), icc_profile=profile))
    assert picture.icc is None or picture.icc == SRGB[:200]


def test_a_grey_profile_is_dropped_from_a_colour_picture() -> None:
    grey_profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    assert decode(saved(Image.fromarray(colours()), icc_profile=grey_profile)).icc is None


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "WEBP", "AVIF"])
def test_the_format_is_detected_by_content(tmp_path: Path, format: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(saved(Image.fromarray(colours()), format))
    picture = read(path)
    assert (picture.height, picture.width, picture.name) == (20, 30, "picture")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"<html>",
        b"%!PS-Adobe-3.0 EPSF",
        b"RIFF1234WAVEfmt .......",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bytes(range(256)),
    ],
)
def test_other_data_is_not_a_picture(data: bytes) -> None:
    with pytest.raises(NotAPicture):
        inspect(data)


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(65_535, 65_535), (13_000, 13_000), (2**31 - 1, 1), (70_000, 2)])
def test_too_many_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(TooManyPixels, match="at most"):
        inspect(png_header(*size))


def test_zero_sides_and_truncated_files_are_broken() -> None:
    with pytest.raises(BrokenPicture):
        decode(png_header(0, 5))
    for format in ("PNG", "JPEG", "WEBP"):
        whole = saved(Image.fromarray(colours(200, 200)), format)
        with pytest.raises(BrokenPicture, match="damaged"):
            decode(whole[: len(whole) // 2])


def test_missing_rows_are_refused() -> None:
    """A PNG whose compressed stream is valid but too short; Pillow would pad it with black."""
    whole = encode(Picture(rgb_hwc=colours(40, 20)), "png")
    short = bytearray(encode(Picture(rgb_hwc=colours(30, 20)), "png"))
    short[8:33] = whole[8:33]
    with pytest.raises(BrokenPicture, match="end after"):
        decode(bytes(short))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9), (33, 17)])
def test_interlaced_pngs_are_decoded(mode: str, size: tuple[int, int]) -> None:
    """Written by libvips."""
    import pyvips

    image = Image.fromarray(colours(size[1], size[0])).convert(mode)
    plain = np.asarray(image.convert("RGBA"))
    data = pyvips.Image.new_from_array(plain).pngsave_buffer(interlace=True)
    assert data[28] == 1
    np.testing.assert_array_equal(decode(data).rgb_hwc, plain[..., :3])
    np.testing.assert_array_equal(decode(saved(image)).rgb_hwc, np.asarray(image.convert("RGB")))


def test_a_flipped_byte_in_the_pixels_is_refused() -> None:
    data = bytearray(saved(Image.fromarray(colours(50, 50))))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BrokenPicture):
        decode(bytes(data))


def test_absurd_numbers_of_chunks_are_refused() -> None:
    whole = saved(Image.fromarray(colours()))
    text = chunk(b"tEXt", b"a\0b")
    with pytest.raises(BrokenPicture, match="chunks"):
        inspect(whole[:33] + text * 2000 + whole[33:])


def test_limits_are_settable() -> None:
    data = saved(Image.fromarray(colours()))
    with pytest.raises(TooManyBytes):
        inspect(data, Limits(max_bytes=10))
    with pytest.raises(TooManyPixels):
        inspect(data, Limits(max_pixels=599))
    assert inspect(data, Limits(max_pixels=600)).width == 30


def test_unsupported_pictures_are_refused_by_format() -> None:
    rgb = colours(2, 2)
    with pytest.raises(FormatCannotHold, match="transparency"):
        encode(Picture(rgb_hwc=rgb, alpha_hw=np.zeros((2, 2), np.uint8)), "jpeg")
    opaque = encode(Picture(rgb_hwc=rgb, alpha_hw=np.full((2, 2), 255, np.uint8)), "jpeg")
    assert decode(opaque).alpha_hw is None
    with pytest.raises(FormatCannotHold, match="16,383"):
        encode(Picture(rgb_hwc=np.zeros((1, 16_384, 3), np.uint8)), "webp")
    with pytest.raises(FormatCannotHold, match="choose one of"):
        encode(Picture(rgb_hwc=rgb), "gif")


def test_files_are_written_and_read_with_clear_errors(tmp_path: Path) -> None:
    picture = Picture(rgb_hwc=colours())
    write(tmp_path / "a.JPG", picture)
    assert read(tmp_path / "a.JPG").width == 30
    with pytest.raises(FormatCannotHold, match="suffix"):
        write(tmp_path / "a.xyz", picture)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SharplineError, match="cannot write"):
        write(tmp_path / "file" / "b.png", picture)
    with pytest.raises(SharplineError, match="cannot read"):
        read(tmp_path / "absent.png")
    assert [path.name for path in list_pictures(tmp_path)] == ["a.JPG"]
    with pytest.raises(SharplineError, match="not a folder"):
        list_pictures(tmp_path / "file")


@pytest.mark.parametrize(
    ("given_name", "cleaned"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\a\\b.png", "b.png"),
        ("a\r\nX: y.png", "a__X_ y.png"),
        ("", "picture"),
        ("..", "picture"),
        ("größe 1.png", "größe 1.png"),
        ("a" * 300, "a" * 100),
    ],
)
def test_names_are_cleaned(given_name: str, cleaned: str) -> None:
    assert clean_name(given_name) == cleaned


@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"II*\0", b"BM"]),
)
def test_any_bytes_give_a_picture_or_a_clear_error(data: bytes, start: bytes) -> None:
    try:
        pixels = decode(start + data).pixels
    except SharplineError:
        return
    assert pixels > 0
