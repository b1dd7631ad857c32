"""`sharpline enhance --model auto` selects a model for each picture."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sharpline.cli import run
from superres.analysis.model_selection import SelectionRequest
from superres.cli.enhance_files import AutoSelector
from superres.degrade.jpeg import compress
from superres.image.codecs import Picture, read, write
from superres.image.resize import imresize
from superres.model.bundle import Bundle, write_bundle


@pytest.fixture
def models(tiny_bundle, tmp_path: Path) -> Path:
    """A folder of two models for scale 2, one of them trained with JPEGs, and one for scale 4."""
    for name, scale, degradation in (
        ("clean_x2", 2, "bicubic"),
        ("jpeg_x2", 2, "{bicubic: 1.0, bicubic_jpeg: 1.0}"),
        ("clean_x4", 4, "bicubic"),
    ):
        plain = tiny_bundle(name=name, scale=scale)
        training = plain.info.training.model_copy(update={"degradation": degradation})
        draft = plain.info.model_copy(update={"training": training})
        write_bundle(tmp_path / "models" / name, draft, plain.weights(), *plain.golden(), "# A\n")
    return tmp_path / "models"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A clean picture, and the same after JPEG, both stored losslessly."""
    skimage = pytest.importorskip("skimage.data")
    clean = imresize(skimage.astronaut(), scale=0.25)[:96, :96]
    write(tmp_path / "in/clean.png", Picture(rgb_hwc=clean))
    write(tmp_path / "in/jpeg.png", Picture(rgb_hwc=compress(clean, 40)))
    return tmp_path / "in"


def test_a_model_is_selected_for_each_picture(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [
        "enhance",
        str(pictures),
        "-o",
        str(out),
        "--model",
        "auto",
        "--models",
        str(models),
    ]
    arguments += ["--backend", "torch", "--overwrite"]
    assert run([*arguments, "--scale", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {Path(each["picture"]).stem: each["model"] for each in result["chosen"]} == {
        "clean": "clean_x2",
        "jpeg": "jpeg_x2",
    }
    assert result["model"] == "auto"
    assert read(out / "clean.png").width == 192
    # The default scale of small pictures is 4, which one model has.
    assert run([*arguments, "--deadline", "60"]) == 0
    stdout = capsys.readouterr().out
    assert "clean_x4" in stdout
    assert "which was not trained for compressed input" in stdout
    assert read(out / "jpeg.png").width == 384


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--model", "auto", "--scale", "3"], 1, "no model of scale 3"),
        (["--model", "auto", "--deadline", "0"], 2, "above 0"),
        (["--model", "MODELS/clean_x2", "--deadline", "3"], 2, "--model auto"),
        (["--model", "MODELS/clean_x2", "--scale", "4"], 2, "has scale 2, not 4"),
        (["--model", "auto", "--models", "IN"], 1, "no model bundles"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str],
    code: int,
    reason: str,
    models: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        argument.replace("MODELS", str(models)).replace("IN", str(pictures))
        for argument in arguments
    ]
    folder = [] if "--models" in arguments else ["--models", str(models)]
    command = ["enhance", str(pictures), "-o", str(tmp_path / "out"), "--backend", "torch"]
    assert run([*command, *folder, *arguments]) == code
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_deadline_selects_by_measured_speed(tiny_bundle) -> None:
    """The better model takes a second a tile, the other a hundredth."""
    bundles = [tiny_bundle(name="fine"), tiny_bundle(name="fast")]
    now = [0.0]
    loaded = []

    def load(bundle: Bundle):
        seconds = 1.0 if bundle.info.name == "fine" else 0.01
        loaded.append(bundle.info.name)

        def forward(tiles):
            now[0] += seconds
            return tiles

        return SimpleNamespace(bundle=bundle, geometry=bundle.info.geometry, forward=forward)

    picture = Picture(rgb_hwc=np.full((96, 96, 3), 90, np.uint8))

    def selected(deadline_seconds: float | None) -> str:
        request = SelectionRequest(deadline_seconds=deadline_seconds)
        return AutoSelector(bundles, request, load, lambda: now[0]).choice(picture).model

    assert selected(None) == "fine"
    assert loaded == [], "without a deadline no model is loaded before the selection"
    assert selected(1000.0) == "fine"
    assert selected(2.0) == "fast"
    assert loaded == ["fine", "fast"] * 2
