"""A training writes a bundle whose statements can be verified."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superres.analysis.degradation_features import FEATURES
from superres.dataset.manifest import read_info
from superres.evaluation.evaluate import evaluate, load_pairs
from superres.model.backends import load_backend
from superres.model.bundle import Bundle, load_bundle
from superres.model.upscaler import Upscaler
from training.bundles import validate
from training.bundles.card import model_card
from training.bundles.licence import commercial_use
from training.cli import train
from training.runs.folder import RunKey, open_run
from training.runs.spool import SPOOL_NAME, Spool

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARPLINE_MLFLOW_URI", raising=False)


@pytest.fixture(scope="module")
def run(dataset: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run trained by the command."""
    runs = tmp_path_factory.mktemp("runs")
    assert train([str(tiny_recipe), "--data", str(dataset), "--out", str(runs)]) == 0
    (folder,) = runs.iterdir()
    return folder


@pytest.fixture
def bundle(run: Path) -> Bundle:
    return load_bundle(run / "tiny_x2")


def json_result(capture: Capture) -> dict[str, Any]:
    return json.loads(capture.readouterr().out.splitlines()[-1])


def test_a_bundle_states_its_provenance(bundle: Bundle, dataset: Path) -> None:
    info = bundle.info
    assert (info.name, info.scale, info.training.steps) == ("tiny_x2", 2, 12)
    assert [(entry.id, entry.source, entry.licence) for entry in info.training.datasets] == [
        (read_info(dataset).id, "garden", "CC0-1.0")
    ]
    assert info.licence.lineage == ("CC0-1.0",)
    assert info.licence.commercial_use == "yes"
    assert info.training.parent is None
    assert set(info.training.reference) == set(FEATURES)


def test_its_scores_equal_an_evaluation(bundle: Bundle, dataset: Path) -> None:
    pairs = load_pairs(dataset, 2)
    backend = load_backend(bundle, backend="torch", device="cpu", precision="fp32")
    found = evaluate(Upscaler(bundle, backend), pairs.pairs, pairs.protocol("y"))
    (score,) = bundle.info.scores
    assert score.protocol == found.protocol.as_dict()
    assert score.psnr == pytest.approx(found.psnr, abs=0.01)
    assert score.bicubic_psnr == pytest.approx(found.bicubic_psnr, abs=1e-4)


def test_its_golden_pair_and_bounds_hold(bundle: Bundle, dataset: Path) -> None:
    exact = Upscaler(bundle, load_backend(bundle, backend="torch", device="cpu", precision="fp32"))
    golden_input, golden_output = bundle.golden()
    assert np.array_equal(exact.whole(golden_input).rgb_hwc, golden_output.rgb_hwc)
    reduced = Upscaler(
        bundle, load_backend(bundle, backend="torch", device="cpu", precision="bf16")
    )
    bounds = bundle.info.bounds
    for pair in load_pairs(dataset, 2).pairs:
        canonical = exact.whole(pair.lr).rgb_hwc.astype(int)
        tiled_error = np.abs(exact.upscale(pair.lr).rgb_hwc - canonical).max()
        reduced_error = np.percentile(np.abs(reduced.whole(pair.lr).rgb_hwc - canonical), 99.9)
        assert tiled_error <= bounds.seam_levels + 1  # both are rounded to whole levels
        assert reduced_error <= 1.5 * bounds.precision_levels["bf16"] + 1


def test_its_card_is_made_from_its_info(bundle: Bundle, dataset: Path) -> None:
    card = (bundle.root / "MODEL_CARD.md").read_text()
    assert card == model_card(bundle.info, read_info(dataset))
    for arguments in ("garden (CC0-1.0)", f"{bundle.info.scores[0].psnr:.2f} dB", "12 steps"):
        assert arguments in card


def test_a_smoke_states_its_reduced_measurements(
    run: Path, dataset: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    arguments = [str(tiny_recipe), "--data", str(dataset), "--profile", "smoke"]
    assert train([*arguments, "--out", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    smoke, full = load_bundle(folder / "tiny_x2"), load_bundle(run / "tiny_x2")
    assert (smoke.info.bounds.pictures, full.info.bounds.pictures) == (1, 3)
    assert "as measured on 1 picture." in smoke.card()
    assert "as measured on 3 pictures." in full.card()
    (score,) = smoke.info.scores
    assert score.protocol["dataset"] == f"{read_info(dataset).id} (middles of 2)"
    assert "(middles of 2), y channel" in smoke.card()


def test_a_smoke_is_scored_on_aligned_centre_crops(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "SMOKE_SIDE", 25)
    monkeypatch.setattr(validate, "SMOKE_PICTURES", 1)
    whole, smoke = validate.held_out(dataset, "full"), validate.held_out(dataset, "smoke")
    assert whole is not None
    assert smoke is not None
    (smoke_pair,), first = list(smoke.pairs), next(iter(whole.pairs))
    assert smoke.names == (smoke_pair.name,) == whole.names[:1]
    top, left = (first.lr.height - 12) // 2, (first.lr.width - 12) // 2
    lr_hwc, hr_hwc = first.lr.rgb_hwc, first.hr.rgb_hwc
    assert np.array_equal(smoke_pair.lr.rgb_hwc, lr_hwc[top : top + 12, left : left + 12])
    top, left = 2 * top, 2 * left
    assert np.array_equal(smoke_pair.hr.rgb_hwc, hr_hwc[top : top + 24, left : left + 24])


def test_a_run_keeps_samples_and_records_but_no_draft(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {
        "run.json",
        "checkpoints",
        "samples",
        "tiny_x2",
        SPOOL_NAME,
    }
    assert not (run / "draft").exists()
    assert [path.name for path in sorted((run / "samples").glob("*/*.png"))] == [
        "garden-00.png",
        "garden-05.png",
    ] * 2
    records = [record for record, _ in Spool(run).unsent()]
    assert [record["note"] for record in records if record["note"] != "metrics"] == [
        "run",
        "artifacts",
        "artifacts",
        "artifacts",
        "tags",
        "artifacts",
        "end",
    ]
    metrics = {
        name for record in records if record["note"] == "metrics" for name in record["values"]
    }
    assert metrics >= {
        "loss/l1",
        "learning_rate",
        "step_seconds",
        "validation/psnr",
        "picture/garden-00/psnr",
    }


def test_a_finetune_starts_from_its_parent_and_inherits_its_lineage(
    bundle: Bundle,
    tiny_recipe: Path,
    garden: Path,
    add: Callable[..., str],
    tmp_path: Path,
    capsys: Capture,
) -> None:
    from training.data.cli import data

    assert (
        data(
            [
                "build",
                add(garden, licence="research use"),
                "--scale",
                "2",
                "--degrade",
                "bicubic_jpeg",
                "--out",
                str(tmp_path),
                "--json",
            ]
        )
        == 0
    )
    other = json_result(capsys)["path"]
    assert (
        train(
            [
                str(tiny_recipe),
                "--data",
                other,
                "--init",
                str(bundle.root),
                "--profile",
                "finetune",
                "--out",
                str(tmp_path / "runs"),
                "--json",
            ]
        )
        == 0
    )
    result = json_result(capsys)
    child = load_bundle(Path(result["bundle"]))
    assert result["bundle_id"] == child.id
    assert result["scores"] == []
    assert child.info.training.parent == bundle.id
    assert {entry.licence for entry in child.info.training.datasets} == {"CC0-1.0", "research use"}
    assert child.info.licence.commercial_use == "no"


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"learning_rte": 1.0}, [], "learning_rte is not a recipe key"),
        ({"scale": 4, "arch__parameters__upscale": 4}, [], "dataset for scale 2"),
        ({"arch__parameters__upscale": 4}, [], "its network enlarges by 4"),
        (
            {"arch__parameters__num_conv": 3},
            ["--init", "BUNDLE"],
            r"num_conv \(2 in the weights, 3",
        ),
        (
            {"full__patches": [{"since": 0.0, "side": 99}]},
            [],
            "no training picture is at least 198 pixels",
        ),
        ({}, ["--minutes", "0"], "--minutes must be more than 0"),
        ({}, ["--init", "DATASET"], "not a model bundle"),
    ],
)
def test_invalid_trainings_are_refused_before_the_first_step(
    changes: dict[str, object],
    arguments: list[str],
    message: str,
    bundle: Bundle,
    dataset: Path,
    recipe_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from superres.common.errors import SharplineError

    paths = {"BUNDLE": str(bundle.root), "DATASET": str(dataset)}
    arguments = [paths.get(argument, argument) for argument in arguments]
    with pytest.raises(SharplineError, match=message):
        train(
            [
                str(recipe_file(**changes)),
                "--data",
                str(dataset),
                "--out",
                str(tmp_path / "runs"),
                *arguments,
            ]
        )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["compact_x4"], ["compact_x4", "--data", "nowhere"]])
def test_a_missing_dataset_is_refused_with_the_remedy(arguments: list[str]) -> None:
    from superres.common.errors import SharplineError

    with pytest.raises(SharplineError, match="sharpline data build"):
        train(arguments)


def test_a_patch_off_the_window_is_refused(recipe_file: Callable[..., Path], dataset: Path) -> None:
    from superres.common.errors import UsageError

    swin = {
        "upscale": 2,
        "window_size": 8,
        "depths": [2],
        "num_heads": [2],
        "embed_dim": 8,
        "upsampler": "pixelshuffledirect",
    }
    with pytest.raises(UsageError, match="patches: side 12 must be a multiple of 8"):
        train(
            [str(recipe_file(arch={"name": "swinir", "parameters": swin})), "--data", str(dataset)]
        )


def test_an_interrupted_training_is_resumed(
    tiny_recipe: Path,
    dataset: Path,
    tmp_path: Path,
    capsys: Capture,
    train_interrupted: Callable[[list[str]], None],
    bundle: Bundle,
) -> None:
    arguments = [
        str(tiny_recipe),
        "--data",
        str(dataset),
        "--out",
        str(tmp_path),
        "--resume",
        "--json",
    ]
    train_interrupted(arguments)
    assert train(arguments) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    (folder,) = tmp_path.iterdir()
    assert "resuming the interrupted run" in captured.err
    assert Path(result["bundle"]).parent == folder
    again = load_bundle(Path(result["bundle"]))
    for key, value in bundle.weights().items():
        assert np.array_equal(again.weights()[key], value)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    key = RunKey(recipe={}, profile="full", dataset_id="a", parent_id=None, minutes=None)
    first, existed = open_run(tmp_path, "tiny", key, resume=True)
    assert not existed
    assert open_run(tmp_path, "tiny", key, resume=True) == (first, True)
    other = RunKey(recipe={}, profile="full", dataset_id="b", parent_id=None, minutes=None)
    assert open_run(tmp_path, "tiny", other, resume=True)[1] is False
    first.finish({})
    assert open_run(tmp_path, "tiny", key, resume=True)[1] is False


@pytest.mark.parametrize(
    ("licences", "reading"),
    [
        (["CC0-1.0", "public domain (NASA; as stated by scikit-image)"], "yes"),
        (["CC0-1.0", "unstated"], "unclear"),
        (["CC0-1.0", "non-commercial research"], "no"),
        (["unstated", "research use"], "no"),
        ([], "unclear"),
    ],
)
def test_licences_are_read_conservatively(licences: list[str], reading: str) -> None:
    assert commercial_use(licences) == reading
