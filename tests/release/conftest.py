"""Fixtures of the release tests: registry clients, a unique model name, damaged bundles."""

import itertools
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from release.cost import Meter
from release.gate import Gate
from release.registry import Registry
from release.rules import CostLimits, Resampling, Rules
from sharpline.cli import run
from superres.dataset.manifest import (
    MANIFEST_NAME,
    DatasetInfo,
    ManifestRow,
    write_info,
    write_manifest,
)
from superres.image.codecs import Picture, write
from superres.model.backends import load_backend


@pytest.fixture
def registry(mlflow_server, tmp_path):
    return Registry(mlflow_server, locks=tmp_path / "locks")


@pytest.fixture
def name():
    """A unique model name in the shared registry."""
    return f"m{uuid4().hex[:12]}"


@pytest.fixture
def client(mlflow_server):
    """MLflow's own client, to act as another client of the registry."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)


@pytest.fixture
def flip_byte(client):
    """Flip one bit of a file of a version's bundle in the registry."""

    def flip(version, file):
        path = Path(client.download_artifacts(version.run_id, f"bundle/{file}"))
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        client.log_artifact(version.run_id, str(path), "bundle")

    return flip


@pytest.fixture(scope="session")
def held_out(tmp_path_factory):
    """Factory of datasets on which `tiny_bundle` is perfect: the HR picture repeats LR pixels.

    `held_out(pictures=3, source="made by hand")` returns the dataset's folder.
    """

    def make(*, pictures=3, source="made by hand", scale=2, low=60, high=180):
        folder = tmp_path_factory.mktemp("dataset")
        rows = []
        for index in range(pictures):
            lr = np.random.default_rng(index).integers(low, high, (24, 32, 3), dtype=np.uint8)
            hr = lr.repeat(scale, axis=0).repeat(scale, axis=1)
            for kind, pixels in (("LR", lr), ("HR", hr)):
                path = folder / f"pairs/validation/{kind}/p{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, Picture(rgb_hwc=pixels))
            rows.append(_row(f"p{index}", hr.shape, scale, source))
        write_manifest(folder / MANIFEST_NAME, rows)
        write_info(folder, _info(pictures, scale, source))
        return folder

    return make


@pytest.fixture
def rules(shared_rules):
    """Rules that three small pictures can pass."""
    return shared_rules


@pytest.fixture(scope="session")
def shared_rules():
    """The same with session scope, for Hypothesis tests."""
    return Rules(
        name="test",
        kind="psnr",
        channel="rgb",
        resampling=Resampling(
            confidence=0.95,
            resamples=200,
            seed=1,
            block_pixels=16,
            min_pictures=2,
            min_blocks=12,
        ),
        min_gain_over_champion_db=0.1,
        min_gain_over_bicubic_db=0.5,
        max_ssim_loss=0.001,
        perception=None,
        floors=[],
        slices=[],
        max_seam_levels=1.0,
        max_precision_levels=2.0,
        cost=CostLimits(rounds=3, max_seconds_ratio=1.5, max_memory_ratio=1.5, free_megabytes=64.0),
        commercial_use="as the champion",
    )


@pytest.fixture
def two_versions(registry, tiny_bundle, name):
    """A model whose champion is off by 8 grey levels and its challenger by 4: 6.02 dB better.

    Returns (champion, challenger) as registered versions.
    """
    champion = registry.register(tiny_bundle(name=name, error_levels=8))
    challenger = registry.register(tiny_bundle(name=name, error_levels=4))
    registry.move_alias(name, "champion", champion, expected=None)
    registry.move_alias(name, "challenger", challenger, expected=None)
    return champion, challenger


@pytest.fixture
def run_gate(registry, held_out, rules, tmp_path):
    """Gate a model with the test's rules, on three pictures, with the backend that starts fastest.

    The tiny networks of the tests run too fast to compare, so each inference takes one second on a
    fake clock and no memory.
    """
    defaults = {"meter": Meter(itertools.count().__next__, lambda run: run() and 0)}

    def judge(model, number=None, *, data=None, rules=rules, **options):
        load = partial(load_backend, backend="torch")
        gate = Gate(registry, tmp_path / "evidence", load, **{**defaults, **options})
        return gate.judge(model, number, data or held_out(), rules)

    return judge


@pytest.fixture
def command(mlflow_server, tmp_path, monkeypatch, capsys):
    """Run `sharpline ARGUMENTS`; returns the exit code, stdout and stderr."""
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", mlflow_server)
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "state"))

    def sharpline(*arguments):
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return sharpline


def _row(name, hr_shape, scale, source):
    height, width, _ = hr_shape
    return ManifestRow(
        split="validation",
        name=name,
        hr_path=f"pairs/validation/HR/{name}.png",
        lr_path=f"pairs/validation/LR/{name}.png",
        hr_sha256="",
        lr_sha256="",
        hr_bytes=0,
        lr_bytes=0,
        width=width,
        height=height,
        scale=scale,
        degradation="box",
        parameters="{}",
        seed=0,
        source=source,
        licence="CC0-1.0",
        author="nobody",
        phash="",
    )


def _info(pictures, scale, source):
    return DatasetInfo(
        id="0123456789abcdef",
        source=source,
        scale=scale,
        degradation="box",
        splits={"train": 0, "validation": pictures},
        licences=["CC0-1.0"],
        left_out=[],
        reference={},
        pack_sha256="",
    )
