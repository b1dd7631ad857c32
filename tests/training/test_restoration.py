"""A restoration model (scale 1) end to end: dataset, training, bundle, commands."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from superres.cli.enhance import enhance
from superres.cli.evaluate import evaluate
from superres.image.codecs import read
from superres.model.bundle import load_bundle
from training.cli import train

NAF = {"width": 8, "enc_blk_nums": [1], "dec_blk_nums": [1], "middle_blk_num": 1, "pool": 16}


@pytest.fixture(scope="module")
def noisy(garden_dataset: Callable[..., Path]) -> Path:
    """A dataset of scale 1: the same pictures with noise."""
    return garden_dataset(scale=1, degradation="gaussian_noise")


def test_a_restoration_model_is_trained_evaluated_and_run(
    noisy: Path,
    recipe_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SHARPLINE_MLFLOW_URI", raising=False)
    recipe = recipe_file(
        name="denoise",
        task="restoration",
        scale=1,
        degradation={"gaussian_noise": 0.5, "poisson_noise": 0.5},
        arch={"name": "nafnet", "parameters": NAF},
    )
    assert train([str(recipe), "--data", str(noisy), "--out", str(tmp_path / "runs")]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    bundle = load_bundle(run / "denoise")
    info = bundle.info
    assert (info.task, info.scale, info.size_multiple) == ("restoration", 1, 2)
    assert info.training.degradation == "{gaussian_noise: 0.5, poisson_noise: 0.5}"
    assert "Restoration, x1" in bundle.card()
    golden_input, golden_output = bundle.golden()
    assert golden_input.rgb_hwc.shape == golden_output.rgb_hwc.shape

    capsys.readouterr()
    assert evaluate([str(bundle.root), "--on", str(noisy), "--backend", "torch", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scored["protocol"]["scale"] == 1
    # The network starts as the identity, so after twelve steps its score is close to the input's.
    assert scored["psnr"] == pytest.approx(scored["bicubic"]["psnr"], abs=1.0)

    (source, *_) = sorted((noisy / "pairs" / "validation" / "LR").glob("*.png"))
    arguments = [str(source), "-o", str(tmp_path / "out"), "--model", str(bundle.root)]
    assert enhance([*arguments, "--backend", "torch"]) == 0
    before, after = read(source), read(tmp_path / "out" / source.name)
    assert after.rgb_hwc.shape == before.rgb_hwc.shape
    assert not np.array_equal(after.rgb_hwc, before.rgb_hwc)
