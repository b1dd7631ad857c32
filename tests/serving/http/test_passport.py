import pytest

from superres.image.codecs import OUTPUT_FORMATS
from superres.image.passport import read_passport


def enhance(server, content, **options):
    headers = options.pop("headers", {})
    answer = server.client.post("/v1/enhance", content=content, params=options, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
def test_the_passport_matches_the_headers(server, noise_png, format):
    answer = enhance(server, noise_png(20, 20), format=format, headers={"X-Request-ID": "mine-1"})
    passport = read_passport(answer.content)
    step = passport.last
    assert step.model == answer.headers["Sharpline-Model"]
    assert step.version == answer.headers["Sharpline-Version"]
    assert step.bundle == answer.headers["Sharpline-Bundle"]
    assert step.request == answer.headers["X-Request-ID"] == "mine-1"
    assert step.did == ("enlarged x4",)
    assert passport.header() == answer.headers["Sharpline-Chain"]


def test_an_output_enhanced_again_lists_both_models(server, noise_png):
    first = enhance(server, noise_png(10, 10), model="compact_x2", format="jpeg")
    second = enhance(server, first.content, model="compact_x4", format="png")
    chain = read_passport(second.content).chain
    assert [step.model for step in chain] == ["compact_x2", "compact_x4"]
    assert [step.request for step in chain] == [
        first.headers["X-Request-ID"],
        second.headers["X-Request-ID"],
    ]
    assert second.headers["Sharpline-Chain"].startswith("compact_x2@")


def test_the_passport_lists_colour_conversion_and_region(server, noise_png):
    answer = enhance(server, noise_png(20, 20), icc="srgb", region="2,2,8,8", model="compact_x2")
    step = read_passport(answer.content).last
    assert step.did == ("colours converted to sRGB", "enlarged x2 in a region")


def test_a_picture_with_a_damaged_passport_is_enhanced(server, noise_png):
    answer = enhance(server, noise_png(10, 10), format="jpeg")
    broken = answer.content.replace(b'"model"', b'"mobel"')
    again = enhance(server, broken)
    assert len(read_passport(again.content).chain) == 1


def test_embedding_can_be_disabled(picture_server, models_folder, noise_png):
    server = picture_server(models_folder, passport={"embed": False})
    answer = enhance(server, noise_png(10, 10))
    assert read_passport(answer.content) is None
    assert answer.headers["Sharpline-Chain"].startswith("compact_x2@")
    server.stop()
