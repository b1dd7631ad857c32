"""The commands `sharpline evaluate` and `sharpline enhance`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharpline.cli import run
from superres.image.codecs import Picture, decode, encode, read, write
from superres.image.resize import imresize


def random_picture(height: int, width: int, seed: int = 0) -> Picture:
    generator = np.random.default_rng(seed)
    return Picture(rgb_hwc=generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write(folder / "one.png", random_picture(40, 30))
    write(folder / "two.jpg", random_picture(33, 47, seed=1))
    return folder


def repeated(lr_hwc: np.ndarray) -> np.ndarray:
    """The output of the tiny bundle's network."""
    return lr_hwc.repeat(2, axis=0).repeat(2, axis=1)


def expected_psnr(
    folder: Path, channel: str, enlarge: Callable[[np.ndarray], np.ndarray] = repeated
) -> dict[str, float]:
    """The PSNR of each picture, downscaled and enlarged."""
    scores = {}
    for path in sorted(folder.iterdir()):
        rgb_hwc = read(path).rgb_hwc
        even_hwc = rgb_hwc[: rgb_hwc.shape[0] // 2 * 2, : rgb_hwc.shape[1] // 2 * 2]
        lr_hwc = imresize(even_hwc, scale=0.5)
        pair = [enlarge(lr_hwc).astype(float), even_hwc.astype(float)]
        if channel == "y":  # BT.601, from 16 to 235
            pair = [each @ (65.481, 128.553, 24.966) / 255 + 16 for each in pair]
        errors = (pair[0] - pair[1])[2:-2, 2:-2]
        scores[path.stem] = 10 * np.log10(255**2 / np.mean(errors**2))
    return scores


def test_evaluate_prints_scores_with_their_protocol(
    tiny_bundle, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle()
    arguments = ["--on", str(pictures), "--backend", "torch", "--json"]
    assert run(["evaluate", str(bundle.root), *arguments]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["protocol"] == {
        "dataset": "in",
        "scale": 2,
        "channel": "y",
        "border": 2,
        "resampler": "matlab-bicubic",
        "ssim": "gaussian-11-1.5",
        "bit_depth": 8,
    }
    expected = expected_psnr(pictures, "y")
    scores = {picture["name"]: picture["psnr"] for picture in result["pictures"]}
    assert scores == pytest.approx(expected, abs=0.01)
    assert result["psnr"] == pytest.approx(np.mean(list(expected.values())), abs=0.01)
    bicubic = expected_psnr(pictures, "y", lambda lr_hwc: imresize(lr_hwc, scale=2))
    assert result["bicubic"]["psnr"] == pytest.approx(np.mean(list(bicubic.values())), abs=0.01)


def test_evaluate_shows_a_table(
    tiny_bundle, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "evaluate",
        str(tiny_bundle().root),
        "--on",
        str(pictures),
        "--channel",
        "rgb",
        "--whole",
        "--backend",
        "torch",
    ]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    expected = expected_psnr(pictures, "rgb")
    rows = [*expected.items(), ("PSNR dB", np.mean(list(expected.values())))]
    for name, psnr in rows:
        assert re.search(rf"{name} +\W {psnr:.2f} ", shown), name
    assert "RGB" in shown


def test_equal_pictures_score_null_not_infinity(
    tiny_bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "flat" / "flat.png", Picture(rgb_hwc=np.full((32, 32, 3), 90, np.uint8)))
    run(["evaluate", str(tiny_bundle().root), "--on", str(tmp_path / "flat"), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["psnr"] is None


def test_enhance_keeps_names_and_formats(
    tiny_bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["enhance", str(pictures), "-o", str(out), "--model", str(tiny_bundle().root)]
    assert run([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sorted(path.name for path in out.iterdir()) == ["one.png", "two.jpg"]
    assert len(result["written"]) == 2
    assert (read(out / "one.png").width, read(out / "one.png").height) == (60, 80)
    assert run(arguments) == 1, "existing outputs are not replaced by default"
    assert "--overwrite" in capsys.readouterr().err
    assert run([*arguments, "--overwrite", "--format", "webp"]) == 0
    assert (out / "one.webp").exists()


def test_one_bad_picture_does_not_stop_the_others(
    tiny_bundle, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "broken.png").write_bytes((pictures / "one.png").read_bytes()[:200])
    alpha = Picture(rgb_hwc=np.zeros((8, 8, 3), np.uint8), alpha_hw=np.zeros((8, 8), np.uint8))
    (pictures / "clear.jpg").write_bytes(encode(alpha, "png"))
    out = tmp_path / "out"
    assert run(["enhance", str(pictures), "-o", str(out), "--model", str(tiny_bundle().root)]) == 1
    stderr = capsys.readouterr().err
    assert "broken.png" in stderr
    assert "transparency" in stderr
    assert sorted(path.name for path in out.iterdir()) == ["one.png", "two.jpg"]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["absent.png"], 1, "does not exist"),
        (["IN/one.png", "IN2/one.png"], 1, "would both become"),
        (["EMPTY"], 1, "no pictures found"),
        (["IN", "--model", "nonsense"], 1, "no model 'nonsense'"),
        (["IN", "--model", "EMPTY"], 1, "not a model bundle"),
        (["IN", "--quality", "0"], 2, "1 to 100"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    arguments: list[str],
    code: int,
    reason: str,
    pictures: Path,
    tmp_path: Path,
    tiny_bundle,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "in2" / "one.png", random_picture(8, 8))
    folders = {"IN2": tmp_path / "in2", "IN": pictures, "EMPTY": tmp_path / "empty"}
    arguments = [
        str(folders[argument]) if argument in folders else argument for argument in arguments
    ]
    arguments = [
        argument.replace("IN2/", f"{tmp_path}/in2/").replace("IN/", f"{pictures}/")
        for argument in arguments
    ]
    model = [] if "--model" in arguments else ["--model", str(tiny_bundle().root)]
    assert run(["enhance", *arguments, "-o", str(tmp_path / "out"), *model]) == code
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_input_is_never_overwritten_by_its_output(
    pictures: Path, tiny_bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (pictures / "one.png").read_bytes()
    model = str(tiny_bundle().root)
    arguments = ["enhance", str(pictures), "-o", str(pictures), "--model", model, "--overwrite"]
    assert run(arguments) == 1
    assert "its own output" in capsys.readouterr().err
    assert (pictures / "one.png").read_bytes() == before
    assert decode(before).width == 30
