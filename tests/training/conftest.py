"""Small pictures and recipes: a whole training takes about a second."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from superres.image.codecs import Picture, write

TINY = """
name: tiny_x2
task: super-resolution
scale: 2
arch:
  name: compact
  parameters: {num_in_ch: 3, num_out_ch: 3, num_feat: 8, num_conv: 2, upscale: 2, act_type: prelu}
losses:
  - {name: l1, weight: 1.0}
discriminator: null
degradation: null
optimizer: {name: adamw, betas: [0.9, 0.999], weight_decay: 0.0}
schedule: {name: cosine, final: 0.01}
ema_decay: 0.9
gradient_clip: 1.0
max_nan_skips: 0
precision: fp32
channels_last: true
compile: false
cuda_graphs: false
seed: 1
full: &stage
  steps: 12
  max_minutes: null
  batch: 2
  micro_batch: null
  patches: [{since: 0.0, side: 12}]
  learning_rate: 2.0e-3
  warmup_steps: 2
  validate_every: 8
  checkpoint_every: 4
  early_stop: null
finetune: *stage
smoke: *stage
"""


def scene(seed: int, height: int = 56, width: int = 72) -> np.ndarray:
    """A smooth scene with edges and fine stripes, a different one per seed. (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    picture = np.empty((height, width, 3))
    for channel in range(3):
        fx, fy, phase = rng.uniform(0.05, 0.9, 3)
        picture[..., channel] = 127 + 80 * np.sin(fx * columns + fy * rows + 6 * phase)
    top, left = rng.integers(4, 24, 2)
    picture[top : top + 20, left : left + 28] = rng.uniform(0, 255, 3)
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own state folder."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("SHARPLINE_STATE", str(folder))
    return folder


@pytest.fixture
def add() -> Callable[..., str]:
    """Register a folder of pictures as a source, as `sharpline data add` does; returns its name."""
    return as_source


@pytest.fixture
def run_data(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run `sharpline data ARGUMENTS --json` and return its JSON result."""
    from training.data.cli import data

    def call(*arguments: object) -> dict[str, Any]:
        assert data([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


@pytest.fixture
def train_interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Run `sharpline train ARGUMENTS` until an interrupt just before the bundle is written."""
    from training import session
    from training.cli import train

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def run(arguments: list[str]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(session, "publish", interrupt)
            with pytest.raises(KeyboardInterrupt):
                train(arguments)

    return run


def as_source(folder: Path, *, licence: str = "CC0-1.0", **more: Any) -> str:
    from training.data.sources.own import add_folder

    terms = {"name": folder.name, "licence": licence, "owns_the_rights": True, "replace": True}
    return add_folder(folder, **terms | more).name


@pytest.fixture(scope="session")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six pictures."""
    folder = tmp_path_factory.mktemp("pictures") / "garden"
    for seed in range(6):
        write(folder / f"{seed:02d}.png", Picture(rgb_hwc=scene(seed)))
    return folder


@pytest.fixture
def pictures(garden: Path, add: Callable[..., str]) -> Path:
    """A folder of six pictures, registered as the source `garden`."""
    add(garden)
    return garden


@pytest.fixture(scope="session")
def garden_dataset(garden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory of datasets of those pictures, four for training and two held out:
    `garden_dataset(scale=..., degradation=...)`.
    """
    from training.data.pairs.build import build
    from training.data.shards.plan import PairRecipe, make_plan
    from training.data.sources.resolve import find_pictures

    def make(**options: Any) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHARPLINE_STATE", str(tmp_path_factory.mktemp("state")))
            found = find_pictures([as_source(garden)], split_every=3)
        root = tmp_path_factory.mktemp("datasets")
        return build(make_plan(found, PairRecipe(**options), root)).path

    return make


@pytest.fixture(scope="session")
def dataset(garden_dataset: Callable[..., Path]) -> Path:
    """A x2 dataset of the pictures, shrunk by bicubic."""
    return garden_dataset(scale=2, degradation="bicubic")


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[..., Path]:
    """Make a recipe file: the tiny recipe with changed keys; `__` separates nested keys."""

    def make(**changes: object) -> Path:
        values = yaml.safe_load(TINY)
        for key, value in changes.items():
            *parents, last = key.split("__")
            mapping = values
            for parent in parents:
                mapping = mapping[parent]
            mapping[last] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return make
