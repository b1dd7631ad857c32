"""Every format round-trips every kind of picture, or refuses it with instructions."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from superres.image.codecs import (
    LONGEST_SIDE,
    OUTPUT_FORMATS,
    BrokenPicture,
    FormatCannotHold,
    Picture,
    check_format_holds,
    decode,
    encode,
    inspect,
    to_srgb,
)

LOSSLESS = ("png", "tiff")
WITH_ALPHA = ("png", "webp", "tiff", "avif")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D50 = struct.pack(">iii", 63190, 65536, 54061)
DISPLAY_P3 = bytes(pyvips.Operation.call("profile_load", "p3"))


def noise(height=20, width=30, channels=3, *, top=256, seed=0):
    dtype = np.uint8 if top == 256 else np.uint16
    return np.random.default_rng(seed).integers(0, top, (height, width, channels), dtype)


def smooth(height=48, width=64):
    ramp = np.add.outer(np.linspace(20, 120, height), np.linspace(0, 100, width))
    return np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=2)


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@given(
    format=st.sampled_from(LOSSLESS),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    grey=st.booleans(),
    alpha=st.booleans(),
    deep=st.booleans(),
    seed=st.integers(0, 99),
)
def test_lossless_formats_round_trip_every_kind_of_picture(
    format, height, width, grey, alpha, deep, seed
):
    rgb_hwc = noise(height, width, top=65_536 if deep else 256, seed=seed)
    if grey:
        rgb_hwc[...] = rgb_hwc[..., :1]
    alpha_hw = noise(height, width, 1, top=65_536 if deep else 256, seed=seed + 1)[..., 0]
    icc = None if grey else SRGB
    picture = Picture(rgb_hwc=rgb_hwc, grey=grey, alpha_hw=alpha_hw if alpha else None, icc=icc)
    back = decode(encode(picture, format))
    np.testing.assert_array_equal(back.rgb_hwc, rgb_hwc)
    assert back.rgb_hwc.dtype == rgb_hwc.dtype
    assert back.icc == icc
    assert back.grey == grey or (format == "tiff" and deep and alpha)
    assert (back.alpha_hw is not None) == alpha
    if alpha:
        np.testing.assert_array_equal(back.alpha_hw, alpha_hw)


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_lossy_formats_come_close(format, deep, grey):
    rgb_hwc = smooth().astype(np.uint16) * 257 if deep else smooth()
    back = decode(encode(Picture(rgb_hwc=rgb_hwc, grey=grey), format, quality=95))
    assert back.bit_depth == 8
    assert np.abs(back.rgb_hwc.astype(int) - smooth()).max() < 8


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
def test_profile_is_kept_by_every_format(format):
    assert decode(encode(Picture(rgb_hwc=smooth(), icc=DISPLAY_P3), format)).icc == DISPLAY_P3


@pytest.mark.parametrize("format", WITH_ALPHA)
@pytest.mark.parametrize("grey", [False, True])
def test_alpha_is_kept_where_the_format_has_it(format, grey):
    alpha_hw = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    back = decode(encode(Picture(rgb_hwc=smooth(), alpha_hw=alpha_hw, grey=grey), format))
    assert np.abs(back.alpha_hw.astype(int) - alpha_hw).max() <= (4 if format == "avif" else 0)


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
def test_resolution_is_kept_by_the_formats_that_have_it(format):
    picture = Picture(rgb_hwc=smooth(), dpi=(300.0, 150.0))
    assert decode(encode(picture, format)).dpi == pytest.approx((300, 150), abs=0.1)
    absurd = replace(picture, dpi=(800_000.0, 800_000.0))
    assert decode(encode(absurd, format)).rgb_hwc.shape == (48, 64, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_in_every_format(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(smooth(16, 24)), format, exif=exif, quality=100)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    picture = decode(data)
    np.testing.assert_array_equal(picture.rgb_hwc, expected)
    np.testing.assert_array_equal(decode(encode(picture, "png")).rgb_hwc, expected)


def test_orientation_is_applied_to_16_bit_tiff():
    rgb_hwc = noise(16, 24, top=65_536)
    image = pyvips.Image.new_from_array(rgb_hwc).copy(interpretation="rgb16")
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    picture = decode(image.tiffsave_buffer(xres=300 / 25.4, yres=150 / 25.4))
    np.testing.assert_array_equal(picture.rgb_hwc, np.rot90(rgb_hwc, -1))
    assert picture.dpi == pytest.approx((150, 300), abs=0.1)


def test_float_tiff_in_colour_is_refused():
    data = pyvips.Image.new_from_array(noise().astype(np.float32)).tiffsave_buffer()
    with pytest.raises(BrokenPicture):
        decode(data)


def test_the_first_frame_of_an_avif_sequence_is_decoded():
    frames = [Image.fromarray(smooth()), Image.fromarray(255 - smooth())]
    data = saved(frames[0], "AVIF", save_all=True, append_images=frames[1:], quality=95)
    assert inspect(data).format == "avif"
    assert np.abs(decode(data).rgb_hwc.astype(int) - smooth()).max() < 8


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_a_side_that_a_format_cannot_hold_is_refused_with_instructions(format):
    longest = LONGEST_SIDE[format]
    check_format_holds(Picture(rgb_hwc=np.zeros((1, longest, 3), np.uint8)), format)
    with pytest.raises(FormatCannotHold, match=f"{longest:,} pixels.*choose png"):
        encode(Picture(rgb_hwc=np.zeros((1, longest + 1, 3), np.uint8)), format)


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_longest_side_a_format_holds_is_written_and_read(format):
    picture = Picture(rgb_hwc=np.full((2, LONGEST_SIDE[format], 3), 90, np.uint8))
    assert decode(encode(picture, format, quality=50)).width == LONGEST_SIDE[format]


def exif_block():
    exif = Image.Exif()
    exif.update({0x010F: "A maker", 0x8298: "© me", 0x0112: 6, 0x0100: 30})
    exif[0x8769] = {0x9003: "2026:01:02 03:04:05", 0xA002: 30, 0x927C: b"private" * 9}
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0)}
    return exif


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "avif"])
def test_metadata_is_dropped_unless_requested(format):
    data = saved(Image.fromarray(smooth()), "JPEG", exif=exif_block())
    assert decode(data).exif is None
    kept = encode(decode(data, keep_metadata=True), format)
    image = Image.open(io.BytesIO(kept))
    image.load()
    exif = image.getexif()
    assert exif[0x010F] == "A maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
    assert exif.get_ifd(0x8825)[1] == "N"
    assert exif.get(0x0112, 1) == 1
    assert 0x0100 not in exif
    assert not {0xA002, 0x927C} & set(exif.get_ifd(0x8769))
    assert image.size == (48, 64), "turned once"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_or_huge_metadata_is_dropped():
    damaged = saved(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode(damaged, keep_metadata=True).exif is None
    huge = Image.Exif()
    huge[0x010E] = "x" * 70_000
    data = saved(Image.fromarray(smooth()), "PNG", exif=huge)
    assert decode(data, keep_metadata=True).exif is None


@pytest.mark.parametrize("deep", [False, True])
def test_colours_are_converted_to_srgb_as_littlecms_does(deep):
    colours = noise(64, 64)
    picture = Picture(rgb_hwc=colours.astype(np.uint16) * 257 if deep else colours, icc=DISPLAY_P3)
    converted = to_srgb(picture)
    reference = ImageCms.profileToProfile(
        Image.fromarray(colours),
        io.BytesIO(DISPLAY_P3),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    assert converted.icc is None
    assert converted.bit_depth == picture.bit_depth
    difference = np.abs(converted.rgb_hwc / (257.0 if deep else 1.0) - np.asarray(reference))
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99) <= 2


def test_srgb_is_unchanged():
    colours = noise()
    assert (
        np.abs(to_srgb(Picture(rgb_hwc=colours, icc=SRGB)).rgb_hwc.astype(int) - colours).max() <= 1
    )
    assert to_srgb(Picture(rgb_hwc=colours)).rgb_hwc is colours


def grey_profile(gamma):
    """The smallest ICC profile of grey: a white point and a power curve."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    parts = {
        b"desc": text,
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
        b"wtpt": b"XYZ " + bytes(4) + D50,
        b"kTRC": b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(gamma * 256)),
    }
    table, body, start = struct.pack(">I", len(parts)), b"", 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        part += bytes(-len(part) % 4)
        table += name + struct.pack(">II", start + len(body), len(part))
        body += part
    head = struct.pack(">I4sI", start + len(body), b"none", 0x02100000) + b"mntrGRAYXYZ "
    head = head.ljust(36, b"\0") + b"acsp"
    return (head.ljust(68, b"\0") + D50).ljust(128, b"\0") + table + body


def test_grey_with_another_curve_is_converted_and_stays_grey():
    levels = np.arange(64, 256, dtype=np.uint8)
    samples = np.repeat(np.resize(levels, (12, 16))[..., None], 3, axis=2)
    data = encode(Picture(rgb_hwc=samples, grey=True, icc=grey_profile(1.8)), "png")
    converted = to_srgb(decode(data))
    linear = (samples[..., 0] / 255) ** 1.8
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert converted.grey
    assert (converted.rgb_hwc[..., 0] == converted.rgb_hwc[..., 2]).all()
    assert np.abs(converted.rgb_hwc[..., 1] - expected).max() < 1.5
