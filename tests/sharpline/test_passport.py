"""`sharpline passport` as a person runs it."""

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
    """A folder of bundles by name, as a server serves them."""
    shutil.copytree(tiny_bundle().root, tmp_path / "models" / "compact_x2")
    return tmp_path / "models"


def stamped(path, *bundle_ids, model="compact_x2"):
    passport = None
    for bundle_id in bundle_ids:
        passport = extended(passport, Step(model=model, version="1", bundle=bundle_id))
    write(path, replace(GREY, passport=passport.text()))
    return str(path)


def with_licence(bundle, folder, use):
    licence = bundle.info.licence.model_copy(update={"commercial_use": use})
    info = bundle.info.model_copy(update={"licence": licence, "git_commit": "abc123"})
    return write_bundle(folder, info, bundle.weights(), *bundle.golden(), "# a model\n")


def test_enhance_writes_a_passport_that_leads_to_the_bundle(tmp_path, models, capsys):
    write(tmp_path / "in.png", GREY)
    arguments = ["enhance", str(tmp_path / "in.png"), "--model", str(models / "compact_x2"), *TORCH]
    assert run([*arguments, "-o", str(tmp_path / "out"), "--format", "webp"]) == 0
    assert run([*arguments, "-o", str(tmp_path / "bare"), "--no-passport"]) == 0
    capsys.readouterr()
    assert run(["passport", str(tmp_path / "out" / "in.webp"), "--models", str(models)]) == 0
    told = capsys.readouterr().out
    assert "compact_x2, version local: enlarged x2" in told
    assert "made by hand (CC0-1.0)" in told
    assert "commercial use is allowed" in told
    assert run(["passport", str(tmp_path / "bare" / "in.png")]) == 1
    assert "carries no passport" in capsys.readouterr().err


def test_an_enhanced_picture_enhanced_again_tells_of_both(tmp_path, models, capsys):
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
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["passport"]["chain"]) == len(answer["origins"]) == 2


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        (["yes"], "allowed"),
        (["yes", "unclear"], "NOT CLEAR"),
        (["unclear", "no"], "NO COMMERCIAL USE"),
    ],
)
def test_the_strictest_licence_of_the_chain_counts(tmp_path, tiny_bundle, capsys, uses, said):
    bundles = [with_licence(tiny_bundle(), tmp_path / "models" / use, use) for use in uses]
    file = stamped(tmp_path / "a.png", *(bundle.id for bundle in bundles))
    assert run(["passport", file, "--models", str(tmp_path / "models")]) == 0
    told = capsys.readouterr().out
    assert said in told.splitlines()[-1]
    assert "commit    abc123" in told


def test_a_bundle_is_found_in_a_followed_folder_by_its_id(tmp_path, tiny_bundle, capsys):
    bundle = tiny_bundle()
    shutil.copytree(bundle.root, tmp_path / "followed" / "by-sha" / bundle.id)
    arguments = ["passport", stamped(tmp_path / "a.jpg", bundle.id), "--json"]
    assert run([*arguments, "--models", str(tmp_path / "followed")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["origins"][0]["found_in"].endswith(bundle.id)
    assert answer["origins"][0]["made"]["datasets"][0]["source"] == "made by hand"
    assert answer["commercial_use"] == "yes"


def test_an_unknown_bundle_is_told_with_where_to_look(tmp_path, models, capsys):
    file = stamped(tmp_path / "a.tif", "0" * 64)
    assert run(["passport", file, "--models", str(models), "--json"]) == 1
    told = capsys.readouterr()
    answer = json.loads(told.out)
    assert answer["origins"][0]["made"] is None
    assert answer["commercial_use"] == "unclear"
    assert "--models or set" not in told.err
    assert "SHARPLINE_MLFLOW_URI" in told.err


def test_a_bundle_whose_description_is_not_understood_is_told(tmp_path, capsys):
    from superres.common.files import sha256_file, write_bytes

    write_bytes(tmp_path / "models" / "odd" / "bundle.json", b'{"format_version": 99}')
    bundle_id = sha256_file(tmp_path / "models" / "odd" / "bundle.json")
    file = stamped(tmp_path / "a.png", bundle_id)
    assert run(["passport", file, "--models", str(tmp_path / "models")]) == 1
    assert "not a description this version reads" in capsys.readouterr().err


def test_a_registry_that_is_away_is_told(tmp_path, models, capsys, monkeypatch):
    from release import registry
    from release.versions import RegistryUnavailable

    def away(*_):
        raise RegistryUnavailable("the registry is away")

    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(registry.Registry, "holding", away)
    file = stamped(tmp_path / "a.png", "0" * 64)
    assert run(["passport", file, "--models", str(models)]) == 1
    assert "the registry is away" in capsys.readouterr().err


def test_what_cannot_be_read_is_named(tmp_path, capsys):
    (tmp_path / "text.png").write_text("this is no picture at all, only text")
    damaged = encode(replace(GREY, passport='{"service":"sharpline"}'), "jpeg")
    (tmp_path / "damaged.jpg").write_bytes(damaged)
    for name, reason in (
        ("text.png", "not a picture"),
        ("damaged.jpg", "the passport is damaged: chain"),
        ("none.png", "No such file"),
    ):
        assert run(["passport", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert name in error
        assert reason in error
