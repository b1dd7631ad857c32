"""The options of POST /v1/enhance, with a running server."""

import io
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from serving.enhance.pictures import region_pixels
from serving.enhance.transform import fitting_shrink, shrunk_side
from superres.image.box import Box
from superres.image.codecs import LONGEST_SIDE, OUTPUT_FORMATS, Picture, decode, encode
from superres.image.region import Region
from superres.image.resize import imresize
from superres.model.tiling import Geometry, computed_pixels, plan

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def enhance(server, content, **options):
    return server.client.post("/v1/enhance", content=content, params=options)


def problem(answer):
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


@pytest.fixture(scope="module")
def small_server(module_picture_server, tiny_bundle, tmp_path_factory):
    """A server with scale 2 and at most 10,000 output pixels."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(tiny_bundle().root, folder / "compact_x2")
    return module_picture_server(folder, limits={"max_output_pixels": 10_000})


@pytest.mark.parametrize("text", ["10,8,40,30", "10,8 60,20 30,70"])
def test_region_is_enhanced_and_the_rest_is_bicubic(server, noise_png, text):
    data = noise_png(80, 90)
    lr = decode(data).rgb_hwc
    answer = decode(enhance(server, data, model="compact_x2", region=text).content).rgb_hwc
    box = Box(top=0, left=0, height=80, width=90)
    model, bicubic = lr.repeat(2, 0).repeat(2, 1), imresize(lr, scale=2)
    expected = Region.parse(text).blended(box, 2, model, bicubic)
    assert np.abs(answer.astype(int) - expected).max() <= 1
    assert (answer != model).any()
    assert (answer != bicubic).any()


def test_only_tiles_of_the_region_are_computed(
    picture_server, models_folder, numpy_backends, noise_png
):
    server = picture_server(models_folder, load_backend=numpy_backends)
    backend = numpy_backends.made[0]
    counts = []
    for options in ({}, {"region": "3,3,5,5"}):
        backend.batches.clear()
        assert enhance(server, noise_png(300, 300), **options).status_code == 200
        counts.append(sum(shape[0] for shape in backend.batches))
    assert counts[1] == 1 < counts[0]


@given(
    *(st.integers(1, 600) for _ in range(2)),
    *(st.floats(-50, 600) for _ in range(2)),
    *(st.floats(0.1, 300) for _ in range(2)),
)
def test_work_of_a_region_is_never_underestimated(height, width, x, y, wide, high):
    geometry = Geometry(scale=2, halo=4, buckets=((32, 32), (64, 96)))
    region = Region.parse(f"{x},{y},{wide},{high}")
    tile_plan = plan(height, width, geometry)
    tile_pixels = tile_plan.bucket[0] * tile_plan.bucket[1]
    touched = sum(region.touches(box) for box in tile_plan.boxes)
    expected = region_pixels(region, height, width, geometry)
    assert touched * tile_pixels <= expected <= computed_pixels(height, width, geometry)


def test_work_of_a_small_region_is_that_of_a_few_tiles():
    geometry = Geometry(scale=2, halo=4, buckets=((32, 32), (64, 96)))
    assert region_pixels(Region.parse("30,30,50,20"), 4000, 3000, geometry) <= 4 * 64 * 96


def test_region_is_in_pixels_of_the_upright_picture(server):
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = np.random.default_rng(4).integers(0, 256, (60, 80, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG", exif=exif)
    lr = np.rot90(samples, -1)
    answer = decode(
        enhance(server, buffer.getvalue(), model="compact_x2", region="5,50,20,20").content
    ).rgb_hwc
    assert answer.shape == (160, 120, 3)
    assert np.array_equal(answer[100:140, 10:50], lr[50:70, 5:25].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    "text", ["1,2,3", "0,0,-5,5", "500,500,5,5", "0,0 1,1 2,2", "x", "nan,0,1,1", "1," * 3000]
)
def test_invalid_region_is_refused(server, noise_png, text):
    assert problem(enhance(server, noise_png(20, 20), region=text)) == (422, "bad-options")


def test_too_large_output_is_refused_or_its_input_shrunk(small_server, noise_png):
    data = noise_png(100, 80)
    assert problem(enhance(small_server, data)) == (422, "output-too-large")
    answer = enhance(small_server, data, on_too_large="shrink")
    assert answer.status_code == 200
    shrunk = float(answer.headers["Sharpline-Shrunk"])
    picture = decode(answer.content)
    assert 9_000 < picture.pixels <= 10_000
    assert shrunk == pytest.approx((10_000 / 32_000) ** 0.5, abs=1e-3)
    expected = imresize(decode(data).rgb_hwc, size=(picture.height // 2, picture.width // 2))
    assert np.abs(picture.rgb_hwc[::2, ::2].astype(int) - expected).max() <= 1
    fits = enhance(small_server, noise_png(20, 20), on_too_large="shrink")
    assert "Sharpline-Shrunk" not in fits.headers


def test_region_shrinks_with_its_picture(small_server, noise_png):
    data = noise_png(100, 100)
    answer = enhance(small_server, data, on_too_large="shrink", region="0,0,40,100")
    lr = imresize(decode(data).rgb_hwc, size=(50, 50))
    picture = decode(answer.content).rgb_hwc
    assert picture.shape == (100, 100, 3)
    assert np.abs(picture[:, :40].astype(int) - lr[:, :20].repeat(2, 0).repeat(2, 1)).max() <= 1
    assert np.abs(picture[:, 60:].astype(int) - imresize(lr, scale=2)[:, 60:]).max() <= 1


@given(
    width=st.integers(1, 70_000),
    height=st.integers(1, 70_000),
    scale=st.integers(1, 8),
    format=st.sampled_from(OUTPUT_FORMATS),
    max_pixels=st.integers(64, 10**9),
)
def test_shrink_factor_is_the_largest_that_fits(width, height, scale, format, max_pixels):
    shrink = fitting_shrink(width, height, scale, format, max_pixels)
    sides = [shrunk_side(side, shrink) * scale for side in (width, height)]
    assert sides[0] * sides[1] <= max_pixels or shrink == 1
    assert max(sides) <= LONGEST_SIDE[format]
    if shrink == 1:
        assert width * height * scale**2 <= max_pixels
    else:
        larger = [(side // scale + 1) * scale for side in sides]
        full = larger[0] * larger[1] > max_pixels or max(larger) > LONGEST_SIDE[format]
        assert full, "one more pixel per side would not fit"


def test_picture_over_the_formats_longest_side_can_be_shrunk(server):
    wide = encode(Picture(rgb_hwc=np.full((20, 9_000, 3), 50, np.uint8)), "png")
    asked = {"model": "compact_x2", "format": "webp"}
    assert problem(enhance(server, wide, **asked)) == (406, "format-cannot-hold")
    answer = enhance(server, wide, **asked, on_too_large="shrink")
    assert answer.status_code == 200
    picture = decode(answer.content)
    assert (picture.width, picture.height) == (LONGEST_SIDE["webp"] // 2 * 2, 36)


def test_auto_selects_a_model_and_gives_the_reason(server, noise_png):
    answer = enhance(server, noise_png(40, 40), model="auto")
    assert answer.status_code == 200
    assert answer.headers["Sharpline-Model"] in ("compact_x2", "compact_x4")
    assert answer.headers["Sharpline-Model"] in answer.headers["Sharpline-Reason"]
    assert "select" in answer.headers["Server-Timing"]
    by_scale = enhance(server, noise_png(40, 40), model="auto", scale=2)
    assert by_scale.headers["Sharpline-Model"] == "compact_x2"
    assert "Sharpline-Reason" not in enhance(server, noise_png(8, 8)).headers
    assert problem(enhance(server, noise_png(8, 8), model="auto", scale=3)) == (422, "bad-options")


def test_auto_refuses_a_broken_picture_as_any_model_does(server, noise_png):
    assert problem(enhance(server, noise_png(40, 40)[:-200], model="auto")) == (
        422,
        "broken-picture",
    )


def test_task_restricts_the_selection(server, noise_png):
    task = "super-resolution"
    assert enhance(server, noise_png(8, 8), task=task).headers["Sharpline-Model"] == "compact_x4"
    chosen = enhance(server, noise_png(8, 8), task=task, scale=2)
    assert chosen.headers["Sharpline-Model"] == "compact_x2"
    named = enhance(server, noise_png(8, 8), task=task, model="compact_x2")
    assert named.status_code == 200
    for wrong in ({"task": "cooking"}, {"task": "cooking", "model": "compact_x2"}):
        assert problem(enhance(server, noise_png(8, 8), **wrong)) == (422, "bad-options")


def test_colours_are_kept_or_converted(server):
    picture = Picture(rgb_hwc=np.full((9, 9, 3), 90, np.uint8), icc=SRGB)
    kept, converted = (
        decode(enhance(server, encode(picture, "png"), icc=icc).content) for icc in ("keep", "srgb")
    )
    assert kept.icc == SRGB
    assert converted.icc is None
    assert np.abs(converted.rgb_hwc.astype(int) - 90).max() <= 1


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "avif"])
def test_metadata_is_kept_on_request(server, format):
    exif = Image.Exif()
    exif[0x013B] = "the artist"
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(buffer, "JPEG", exif=exif)
    for keep, artist in (("true", "the artist"), ("false", None)):
        answer = enhance(server, buffer.getvalue(), format=format, keep_metadata=keep)
        image = Image.open(io.BytesIO(answer.content))
        image.load()
        assert image.getexif().get(0x013B) == artist


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
def test_dpi_are_scaled_with_the_picture(server, format):
    picture = Picture(rgb_hwc=np.zeros((9, 9, 3), np.uint8), dpi=(150.0, 150.0))
    answer = enhance(server, encode(picture, "png"), format=format, scale=2)
    assert decode(answer.content).dpi == pytest.approx((300, 300), abs=0.1)


def test_clients_deadline_is_enforced(picture_server, models_folder, numpy_backends, noise_png):
    server = picture_server(models_folder, load_backend=numpy_backends)
    backend = numpy_backends.made[0]
    backend.gate.clear()
    try:
        late = enhance(server, noise_png(20, 20), deadline=0.1)
        assert problem(late) == (504, "deadline-passed")
    finally:
        backend.gate.set()
    assert enhance(server, noise_png(20, 20), deadline=50).status_code == 200


def test_unknown_option_is_refused_with_a_suggestion(server, noise_png):
    answer = enhance(server, noise_png(8, 8), modle="compact_x2")
    assert problem(answer) == (422, "bad-options")
    assert answer.json()["detail"] == "modle: there is no such option; did you mean model?"
    form = {"files": {"file": noise_png(8, 8)}, "data": {"on_to_large": "shrink"}}
    in_form = server.client.post("/v1/enhance", **form)
    assert "did you mean on_too_large?" in in_form.json()["detail"]


def test_models_list_the_cost_per_megapixel(server, noise_png):
    enhance(server, noise_png(20, 20), model="compact_x2")
    cards = {card["name"]: card for card in server.client.get("/v1/models").json()["models"]}
    assert cards["compact_x2"]["seconds_per_megapixel"] > 0
    assert cards["compact_x4"]["output_pixels_per_input_pixel"] == 16
