"""`sharpline bench --networks`: what networks cost, counted and measured, and what they reach."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sharpline.cli import run
from superres.cli import bench_networks
from superres.model.archs import ARCHS
from superres.model.backends import BackendUnavailable
from superres.model.bundle import Bundle, load_bundle
from superres.model.network_benchmark import (
    NetworkCost,
    input_size,
    network_size,
    untrained_bundle,
)
from superres.model.networks import NETWORKS, NamedNetwork, PublishedScore

TINY = NamedNetwork(name="tiny", arch="compact", parameters={"num_feat": 8, "num_conv": 2})
RECIPES = Path(__file__).parents[3] / "training" / "recipes"
# Recipe by network; the recipes differ in the form of training and in what has no weights.
RECIPE_OF = {
    "srcnn": "srcnn_x4",
    "span_32": "span_fast_x4",
    "span_48": "span_x4",
    "compact": "compact_x4",
    "vdsr": "vdsr_x4",
    "swinir_light": "swinir_light_x4",
    "esrgan_small": "esrgan_small_x4",
    "swinir": "swinir_x4",
    "esrgan": "esrgan_x4",
    "nafnet_small": "denoise",
}
FORM = {"merged", "residual", "img_range"}


def test_multiply_adds_and_weights_are_those_of_the_deploy_form() -> None:
    pixels = 64 * 32
    per_pixel = 9 * (3 * 8 + 2 * 8 * 8 + 8 * 48)
    weights = per_pixel + 3 * 8 + 48 + 3 * 8  # biases, and a slope per feature
    size = network_size(TINY, 4 * 64, 4 * 32)
    assert (size.multiply_adds, size.weights) == (pixels * per_pixel, weights)
    expanded, merged = (
        NamedNetwork(name="span", arch="span", parameters={"feature_channels": 8, "merged": form})
        for form in (False, True)
    )
    assert network_size(expanded, 64, 64) == network_size(merged, 64, 64)


def test_published_sizes_are_reproduced() -> None:
    by_name = {network.name: network for network in NETWORKS}
    for name, weights in (("dat_light", 573), ("plksr", 7386), ("swinir", 11900)):
        assert round(network_size(by_name[name], 128, 128).weights / 1000) == weights


def test_an_input_on_a_grid_is_rounded_up_and_counted_exactly() -> None:
    window = NamedNetwork(
        name="window",
        arch="swinir",
        parameters={
            "upscale": 4,
            "embed_dim": 12,
            "depths": [2],
            "num_heads": [2],
            "upsampler": "pixelshuffledirect",
        },
    )
    assert input_size(window, 4 * 20, 4 * 9) == (24, 16)
    whole, part = (network_size(window, 4 * side, 4 * 8).multiply_adds for side in (16, 12))
    assert part == round(whole * 12 / 16)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_named_network_is_that_of_its_recipe(network: NamedNetwork) -> None:
    arch = ARCHS.get(network.arch)
    assert arch.facts_for(network.parameters).scale in (1, 4)
    if network.name not in RECIPE_OF:
        return
    recipe = yaml.safe_load((RECIPES / f"{RECIPE_OF[network.name]}.yaml").read_text())["arch"]
    left_out = arch.weightless_parameters | FORM
    ours, theirs = (
        {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in arch.complete(parameters).items()
            if name not in left_out
        }
        for parameters in (network.parameters, recipe["parameters"])
    )
    assert (network.arch, ours) == (recipe["name"], theirs)


def test_every_recipe_with_another_network_is_among_the_named() -> None:
    covered = {network.arch for network in NETWORKS}
    recipes = [yaml.safe_load(path.read_text())["arch"]["name"] for path in RECIPES.glob("*.yaml")]
    assert covered >= set(recipes)


def test_an_untrained_bundle_loads_and_is_of_the_network(tmp_path: Path) -> None:
    bundle = untrained_bundle(tmp_path / "tiny", TINY)
    assert load_bundle(bundle.root).info.arch.parameters == dict(TINY.parameters)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Callable[..., Bundle]) -> Bundle:
    """Two tiny networks; the second has a published score and a starter."""
    bundle = tiny_bundle(name="known_x2")
    score = PublishedScore(psnr=31.5, protocol="Set5 x2, Y", source="A. Uthor 2020")
    known = NamedNetwork(
        name="known",
        arch="compact",
        parameters=bundle.info.arch.parameters,
        published=score,
        starter=bundle.root.name,
    )
    monkeypatch.setattr(bench_networks, "NETWORKS", (TINY, known))
    monkeypatch.setattr(bench_networks, "STARTERS", bundle.root.parent)
    monkeypatch.setattr(bench_networks, "find_bundle", lambda name: bundle)
    monkeypatch.setattr(bench_networks, "OUTPUT_WIDTH", 64)
    monkeypatch.setattr(bench_networks, "OUTPUT_HEIGHT", 48)
    return bundle


@pytest.mark.usefixtures("networks")
def test_networks_are_measured_in_processes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "networks.json"
    arguments = ["bench", "--networks", "tiny", "--runs", "1", "--device", "cpu"]
    assert run([*arguments, "--json", "--out", str(out)]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document == json.loads(out.read_text())
    [row] = document["networks"]
    assert (row["network"], row["input"]) == ("tiny", {"width": 16, "height": 12})
    for precision in ("fp32", "bf16"):
        cost = row["costs"][precision]
        assert cost["milliseconds"] > 0
        assert cost["memory_mib"] > 1  # weights, libraries and the compiled model
        assert cost["device"] == "cpu"
    assert row["own"] is None


def costs(
    network: NamedNetwork, size: tuple[int, int], precision: str, runs: int, device: str
) -> NetworkCost:
    if precision == "bf16":
        raise BackendUnavailable("no bf16 here")
    return NetworkCost(backend="torch", device="cpu", milliseconds=12.34, memory_mib=56.7)


def test_the_table_has_scores_with_their_protocols(
    networks: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exact_pairs: Path,
) -> None:
    monkeypatch.setattr(bench_networks, "network_cost", costs)
    assert run(["bench", "--networks", "--on", str(exact_pairs)]) == 0
    shown = capsys.readouterr()
    rows = [line for line in shown.out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| network", "| tiny", "| known"]
    assert rows[1].endswith("| 12 | - | 57 | - | - | - |")
    assert "| 12 | - | 57 | - | 31.50 Set5 x2, Y | " in rows[2]
    assert rows[2].endswith(" smooth |")
    assert "- known: A. Uthor 2020" in shown.out
    assert f"Own, known_x2: dataset {exact_pairs.name}, scale 2, channel y" in shown.out
    assert "tiny in bf16 left out: no bf16 here" in shown.err


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--networks", "tony"], "did you mean tiny?"),
        (["--networks", "--on", "nowhere"], "nowhere is not a folder of pictures"),
        (["--on", "set5"], "--on only goes with --networks"),
        (["--networks", "--size", "32x24"], "leave --size out"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.usefixtures("networks")
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--networks", "tiny", "--runs", "1", "--device", "cuda"]) == 1
    assert "no CUDA device is visible here" in capsys.readouterr().err


@pytest.fixture
def exact_pairs(tmp_path: Path) -> Path:
    """A folder of one smooth picture."""
    import numpy as np

    from superres.image.codecs import Picture, write

    rows, columns = np.mgrid[:64, :48]
    rgb: Any = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    write(tmp_path / "smooth" / "one.png", Picture(rgb_hwc=rgb))
    return tmp_path / "smooth"
