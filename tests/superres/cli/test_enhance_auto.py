"""`sharpline enhance --model auto`: each picture by the model that fits it."""

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
    """A clean picture, and the same after JPEG, both stored without loss."""
    skimage = pytest.importorskip("skimage.data")
    clean = imresize(skimage.astronaut(), scale=0.25)[:96, :96]
    write(tmp_path / "in/clean.png", Picture(rgb_hwc=clean))
    write(tmp_path / "in/jpeg.png", Picture(rgb_hwc=compress(clean, 40)))
    return tmp_path / "in"


def test_each_picture_gets_the_model_that_fits_it(
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
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {Path(each["picture"]).stem: each["model"] for each in found["chosen"]} == {
        "clean": "clean_x2",
        "jpeg": "jpeg_x2",
    }
    assert found["model"] == "auto"
    assert read(out / "clean.png").width == 192
    # Without a scale small pictures grow four times, by the one model that does that.
    assert run([*arguments, "--deadline", "60"]) == 0
    said = capsys.readouterr().out
    assert "clean_x4" in said
    assert "which was not trained for compressed input" in said
    assert read(out / "jpeg.png").width == 384


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "auto", "--scale", "3"], "no model of scale 3"),
        (["--model", "auto", "--deadline", "0"], "above 0"),
        (["--model", "MODELS/clean_x2", "--deadline", "3"], "--model auto"),
        (["--model", "MODELS/clean_x2", "--scale", "4"], "enlarges 2 times, not 4"),
        (["--model", "auto", "--models", "IN"], "no model bundles"),
    ],
)
def test_wrong_words_are_told(
    arguments: list[str],
    reason: str,
    models: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        word.replace("MODELS", str(models)).replace("IN", str(pictures)) for word in arguments
    ]
    folder = [] if "--models" in arguments else ["--models", str(models)]
    command = ["enhance", str(pictures), "-o", str(tmp_path / "out"), "--backend", "torch"]
    assert run([*command, *folder, *arguments]) in (1, 2)
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_deadline_is_held_by_what_models_take_here(tiny_bundle) -> None:
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

    def taken(deadline_seconds: float | None) -> str:
        wanted = SelectionRequest(deadline_seconds=deadline_seconds)
        return AutoSelector(bundles, wanted, load, lambda: now[0]).choice(picture).model

    assert taken(None) == "fine"
    assert loaded == [], "without a deadline nothing is loaded before it is chosen"
    assert taken(1000.0) == "fine"
    assert taken(2.0) == "fast"
    assert loaded == ["fine", "fast"] * 2
