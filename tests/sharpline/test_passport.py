"""`sharpline passport` on the command line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from sharpline.cli import run
from superres.image.codecs import Picture, encode, write
from superres.image.passport import Step, extended
from superres.model.bundle import write_bundle

TORCH = ("--backend", "torch")  # half the time that OpenVINO takes to start
GREY = Picture(rgb_hwc=np.full((24, 24, 3), 128, np.uint8))


@pytest.fixture(autouse=True)
def no_registry(monkeypatch):
    monkeypatch.delenv("SHARPLINE_MLFLOW_URI", raising=False)


@pytest.fixture
def models(tmp_path, tiny_bundle):
    """A folder of bundles by name, as for `sharpline serve`."""
    shutil.copytree(tiny_bundle().root, tmp_path / "models" / "compact_x2")
    return tmp_path / "models"


def with_passport(path, *bundle_ids, model="compact_x2"):
    passport = None
    for bundle_id in bundle_ids:
        passport = extended(passport, Step(model=model, version="1", bundle=bundle_id))
    write(path, replace(GREY, passport=passport.text()))
    return str(path)


def with_licence(bundle, folder, use):
    licence = bundle.info.licence.model_copy(update={"commercial_use": use})
    info = bundle.info.model_copy(update={"licence": licence, "git_commit": "abc123"})
    return write_bundle(folder, info, bundle.weights(), *bundle.golden(), "# a model\n")


def test_enhance_writes_a_passport_from_which_the_bundle_is_found(tmp_path, models, capsys):
    write(tmp_path / "in.png", GREY)
    arguments = ["enhance", str(tmp_path / "in.png"), "--model", str(models / "compact_x2"), *TORCH]
    assert run([*arguments, "-o", str(tmp_path / "out"), "--format", "webp"]) == 0
    assert run([*arguments, "-o", str(tmp_path / "bare"), "--no-passport"]) == 0
    capsys.readouterr()
    assert run(["passport", str(tmp_path / "out" / "in.webp"), "--models", str(models)]) == 0
    printed = capsys.readouterr().out
    assert "compact_x2, version local: enlarged x2" in printed
    assert "made by hand (CC0-1.0)" in printed
    assert "commercial use is allowed" in printed
    assert run(["passport", str(tmp_path / "bare" / "in.png")]) == 1
    assert "has no passport" in capsys.readouterr().err


def test_a_picture_enhanced_twice_has_both_steps(tmp_path, models, capsys):
    write(tmp_path / "in.png", GREY)
    for source, out in (("in.png", "once"), ("once/in.png", "twice")):
        arguments = [
            "enhance",
            str(tmp_path / source),
            "--model",
            str(models / "compact_x2"),
            *TORCH,
        ]
        assert run([*arguments, "-o", str(tmp_path / out)]) == 0
    capsys.readouterr()
    last = str(tmp_path / "twice" / "in.png")
    assert run(["passport", last, "--models", str(models), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["passport"]["chain"]) == len(result["origins"]) == 2


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        (["yes"], "allowed"),
        (["yes", "unclear"], "NOT CLEAR"),
        (["unclear", "no"], "NO COMMERCIAL USE"),
    ],
)
def test_the_strictest_licence_of_the_chain_counts(tmp_path, tiny_bundle, capsys, uses, message):
    bundles = [with_licence(tiny_bundle(), tmp_path / "models" / use, use) for use in uses]
    file = with_passport(tmp_path / "a.png", *(bundle.id for bundle in bundles))
    assert run(["passport", file, "--models", str(tmp_path / "models")]) == 0
    printed = capsys.readouterr().out
    assert message in printed.splitlines()[-1]
    assert "commit    abc123" in printed


def test_a_bundle_is_found_in_a_followed_folder_by_its_id(tmp_path, tiny_bundle, capsys):
    bundle = tiny_bundle()
    shutil.copytree(bundle.root, tmp_path / "followed" / "by-sha" / bundle.id)
    arguments = ["passport", with_passport(tmp_path / "a.jpg", bundle.id), "--json"]
    assert run([*arguments, "--models", str(tmp_path / "followed")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["origins"][0]["found_in"].endswith(bundle.id)
    assert result["origins"][0]["made"]["datasets"][0]["source"] == "made by hand"
    assert result["commercial_use"] == "yes"


def test_an_unknown_bundle_is_reported_with_a_hint(tmp_path, models, capsys):
    file = with_passport(tmp_path / "a.tif", "0" * 64)
    assert run(["passport", file, "--models", str(models), "--json"]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["origins"][0]["made"] is None
    assert result["commercial_use"] == "unclear"
    assert "--models, or set SHARPLINE_MLFLOW_URI" in printed.err


def test_a_bundle_of_an_unknown_format_is_reported(tmp_path, capsys):
    from superres.common.files import sha256_file, write_bytes

    write_bytes(tmp_path / "models" / "odd" / "bundle.json", b'{"format_version": 99}')
    bundle_id = sha256_file(tmp_path / "models" / "odd" / "bundle.json")
    file = with_passport(tmp_path / "a.png", bundle_id)
    assert run(["passport", file, "--models", str(tmp_path / "models")]) == 1
    assert "not a description that this version reads" in capsys.readouterr().err


def test_an_unavailable_registry_is_reported(tmp_path, models, capsys, monkeypatch):
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file = with_passport(tmp_path / "a.png", "0" * 64)
    assert run(["passport", file, "--models", str(models)]) == 1
    error = capsys.readouterr().err
    assert "sharpline: the registry at http://127.0.0.1:9 failed (" in error
    assert error.rstrip().endswith("check that it runs and try again")


def test_unreadable_files_are_reported(tmp_path, capsys):
    (tmp_path / "text.png").write_text("this is text, not a picture")
    damaged = encode(replace(GREY, passport='{"service":"sharpline"}'), "jpeg")
    (tmp_path / "damaged.jpg").write_bytes(damaged)
    for name, reason in (
        ("text.png", "not a supported picture"),
        ("damaged.jpg", "the passport is damaged: chain"),
        ("none.png", "No such file"),
    ):
        assert run(["passport", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert name in error
        assert reason in error
