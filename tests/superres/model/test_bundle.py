"""A bundle is loaded as published, or refused with the name of the changed file."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from superres.model.bundle import BrokenBundle, BundleInfo, load_bundle


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle):
    import shutil

    original = tiny_bundle(name="compact_x2")
    shutil.copytree(original.root, tmp_path / "bundle")
    return load_bundle(tmp_path / "bundle")


def test_a_bundle_round_trips(bundle) -> None:
    weights = bundle.weights()
    assert weights
    assert all(value.dtype == np.float32 for value in weights.values())
    golden_input, golden_output = bundle.golden()
    assert golden_output.width == golden_input.width * bundle.info.scale
    assert load_bundle(bundle.root).id == bundle.id
    assert bundle.info.geometry.scale == 2


@pytest.mark.parametrize(
    "name",
    ["weights.safetensors", "golden/input.png", "golden/output.png", "MODEL_CARD.md"],
)
def test_one_flipped_byte_is_refused_by_name(bundle, name: str) -> None:
    path = bundle.root / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BrokenBundle, match=name):
        load_bundle(bundle.root)
    path.unlink()
    with pytest.raises(BrokenBundle, match="missing"):
        load_bundle(bundle.root)


def test_unlisted_files_are_refused(bundle) -> None:
    (bundle.root / "evil.pkl").write_bytes(b"x")
    with pytest.raises(BrokenBundle, match=r"evil\.pkl"):
        load_bundle(bundle.root)


def rewrite(bundle, change) -> Path:
    path = bundle.root / "bundle.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return bundle.root


def test_a_changed_description_is_another_bundle(bundle) -> None:
    root = rewrite(bundle, lambda value: value.update(task="denoise"))
    assert load_bundle(root).id != bundle.id


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(surprise=1),
        lambda value: value.update(format_version=2),
        lambda value: value.update(scale=0),
        lambda value: value.update(name="../up"),
        lambda value: value.update(tile_buckets=[]),
        lambda value: value.update(tile_buckets=[[4, 4]]),
        lambda value: value.pop("halo"),
    ],
)
def test_invalid_descriptions_are_refused(bundle, change) -> None:
    with pytest.raises(BrokenBundle, match=r"bundle\.json"):
        load_bundle(rewrite(bundle, change))


def test_files_must_be_listed_and_lie_inside(bundle) -> None:
    weights = bundle.info.files["weights.safetensors"]
    root = rewrite(bundle, lambda value: value["files"].pop("weights.safetensors"))
    with pytest.raises(BrokenBundle, match="does not list"):
        load_bundle(root)
    rewrite(
        bundle,
        lambda value: value["files"].update(
            {"weights.safetensors": weights, "../../outside": "0" * 64}
        ),
    )
    with pytest.raises(BrokenBundle, match="outside"):
        load_bundle(root)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenBundle, match="not a model bundle"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BrokenBundle, match=r"bundle\.json"):
        load_bundle(tmp_path)


def test_descriptions_are_frozen(bundle) -> None:
    with pytest.raises(ValidationError):
        bundle.info.scale = 4
    assert isinstance(bundle.info, BundleInfo)


def test_a_source_is_listed_once(bundle) -> None:
    training = bundle.info.training
    entries = [
        {"id": id, "source": source, "licence": licence}
        for id, source, licence in (
            ("1", "sample", "CC0-1.0"),
            ("1", "div2k", "research"),
            ("2", "sample", "CC0-1.0"),
        )
    ]
    again = type(training).model_validate({**training.model_dump(), "datasets": entries})
    assert again.sources == ("sample", "div2k")
    assert [dataset.id for dataset in again.datasets] == ["1", "1", "2"]


def test_gan_losses_make_a_bundle_adversarial(bundle) -> None:
    training = bundle.info.training
    assert not training.is_adversarial
    assert training.model_copy(update={"losses": ("l1", "gan")}).is_adversarial
