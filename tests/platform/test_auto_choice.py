"""The benchmark of `auto`: its statistics, and a run on tiny models."""

import json
from pathlib import Path
from shutil import copytree

import pytest

from bench.auto_choice import AUTO, Trial, gains_by_picture, main
from superres.image.codecs import Picture, write


def trial(damage: str, selected: str, **psnr: float) -> Trial:
    return Trial(picture="p", damage=damage, psnr=psnr, selected=selected, reason="")


def test_auto_has_the_psnr_of_the_selected_model() -> None:
    jpeg = trial("bicubic_jpeg", "real", clean=25.0, real=27.0)
    assert jpeg.psnr_of(AUTO) == jpeg.psnr_of("real") == 27.0
    assert jpeg.psnr_of("clean") == 25.0


def test_inputs_of_one_picture_count_as_one() -> None:
    trials = [
        Trial(picture=picture, damage="bicubic", psnr={"a": 20.0, "b": 20.0 + gain}, selected="b",
              reason="")
        for picture, gain in (("one", 1.0), ("one", 3.0), ("two", 4.0))
    ]  # fmt: skip
    assert gains_by_picture(trials, "a") == [2.0, 4.0]


def test_auto_does_not_beat_equal_models(
    tiny_bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skimage = pytest.importorskip("skimage.data")
    for name in ("a_x2", "b_x2"):
        copytree(tiny_bundle(name=name).root, tmp_path / "models" / name)
    write(tmp_path / "in/one.png", Picture(rgb_hwc=skimage.astronaut()[:96, :96]))
    arguments = ["--models", str(tmp_path / "models"), "--on", str(tmp_path / "in"), "--scale", "2"]
    assert main([*arguments, "--side", "64", "--draws", "1", "--backend", "torch"]) == 1
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert result["inputs"] == 3
    assert result["gain_db"] == 0
    assert result["regret_db"] == 0
    assert "| **auto** |" in printed
    assert set(result["psnr"]) == {"a_x2", "b_x2", AUTO}
