"""Packages add networks, losses, degradations, metrics and optimizers; bad ones are left out."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from superres.image.codecs import Picture, decode, encode, read, write

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "plugin-example"
SHARPLINE = Path(sys.executable).with_name("sharpline")

BROKEN = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "broken-plugins"
version = "0.1"
[tool.setuptools]
py-modules = ["broken_plugins", "incomplete", "raises_on_import"]
[project.entry-points."sharpline.archs"]
raises = "raises_on_import:ARCH"
rrdb = "broken_plugins:ANYTHING"
detects_all = "broken_plugins:DETECTS_ALL"
[project.entry-points."sharpline.losses"]
incomplete = "incomplete:LOSS"
not_an_entry = "broken_plugins:ANYTHING"
[project.entry-points."sharpline.degradations"]
missing = "broken_plugins:MISSING"
[project.entry-points."sharpline.quality_metrics"]
named_otherwise = "broken_plugins:METRIC"
[project.entry-points."sharpline.optimizers"]
exits = "raises_on_import:exits"
""",
    "incomplete.py": """
from training.losses.loss import Loss
LOSS = Loss(name="incomplete")
""",
    "raises_on_import.py": "raise SystemExit('no licence on this machine')\n",
    "broken_plugins.py": """
from superres.quality.metric import QualityMetric
from superres.model.archs.architecture import ArchFacts, Architecture
from torch import nn
class Nothing(nn.Module):
    def __init__(self, upscale: int = 2) -> None:
        super().__init__()
DETECTS_ALL = Architecture(
    name="detects_all",
    network=Nothing,
    facts=lambda parameters: ArchFacts(scale=2, receptive_field=1),
    detect=lambda state: state["its own key"],
)
ANYTHING = {"name": "not_an_entry"}
METRIC = QualityMetric(name="other", load=lambda weights: None)
""",
}


def install(source: Path, site: Path) -> None:
    """Build and install a package with pip into a folder, without an index."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--disable-pip-version-check", "--target", site, source),
        ],
        check=True,
        timeout=240,
    )


def scene(seed: int) -> np.ndarray:
    """A smooth picture with edges, (64, 80, 3) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :80]
    waves = [np.sin(columns * rng.uniform(0.1, 0.6) + rows * rng.uniform(0.1, 0.6)) for _ in "rgb"]
    picture = 127 + 90 * np.stack(waves, axis=-1)
    picture[20:44, 10 + seed : 40 + seed] = rng.uniform(0, 255, 3)
    return picture.clip(0, 255).astype(np.uint8)


class Machine:
    """An environment in which `sharpline` finds the packages of a site folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.site = root, root / "site"
        self.environment = {
            **{name: value for name, value in os.environ.items() if "SHARPLINE" not in name},
            "PYTHONPATH": str(self.site),
            "SHARPLINE_STATE": str(root / "state"),
            "SHARPLINE_THREADS": "1",
        }

    def sharpline(self, *arguments: object, fails: bool = False) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [SHARPLINE, *map(str, arguments)],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done

    def result(self, *arguments: object) -> dict[str, Any]:
        """The JSON result of a command."""
        return json.loads(self.sharpline(*arguments, "--json").stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """With the example package and one whose entries are all bad."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    example, broken = machine.root / "example", machine.root / "broken"
    shutil.copytree(EXAMPLE, example)
    broken.mkdir()
    for name, text in BROKEN.items():
        (broken / name).write_text(text)
    install(example, machine.site)
    install(broken, machine.site)
    return machine


@pytest.fixture(scope="module")
def bundle(machine: Machine) -> Path:
    """A bundle trained and published with the example package."""
    for seed in range(6):
        write(machine.root / "scenes" / f"{seed}.png", Picture(rgb_hwc=scene(seed)))
    machine.sharpline("data", "add", "scenes", "--licence", "CC0-1.0", "--i-own-the-rights")
    built = machine.result(
        *("data", "build", "scenes", "--scale", 2, "--degrade", "{posterise: 1, bicubic: 1}"),
        *("--split-every", 3, "--workers", 1),
    )
    trained = machine.result(
        *("train", EXAMPLE / "recipe.yaml", "--data", built["path"], "--device", "cpu")
    )
    return Path(trained["bundle"])


def test_a_package_trains_and_publishes_its_network(bundle: Path) -> None:
    info = json.loads((bundle / "bundle.json").read_text())
    assert info["arch"]["name"] == "branches"
    assert info["training"]["losses"] == ["l1", "gradient"]
    assert info["training"]["degradation"] == "{bicubic: 0.5, posterise: 0.5}"
    assert info["bounds"]["seam_levels"] == 0.0  # the halo reaches the receptive field


def test_its_metric_evaluates_its_model(machine: Machine, bundle: Path) -> None:
    evaluated = machine.result("evaluate", bundle, "--on", "scenes", "--metrics", "psnr,mae")
    text = json.dumps(evaluated)
    assert '"mae"' in text
    assert "branches_x2" in text


def test_the_served_picture_is_that_of_enhance(
    machine: Machine, bundle: Path, await_true: Callable[..., Any]
) -> None:
    picture = machine.root / "scenes" / "0.png"
    machine.sharpline("enhance", picture, "-o", "enhanced", "--model", bundle)
    (enhanced,) = (machine.root / "enhanced").glob("*.png")
    models = machine.root / "models"
    shutil.copytree(bundle, models / "branches_x2")
    command = [SHARPLINE, "serve", "--port", "0", "--models", models, "--json"]
    with subprocess.Popen(
        command, cwd=machine.root, env=machine.environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            await_true(lambda: httpx.get(f"{url}/readyz").status_code == 200, "the server")
            answer = httpx.post(f"{url}/v1/enhance", content=picture.read_bytes(), timeout=60)
        finally:
            server.terminate()
    assert answer.status_code == 200, answer.text
    assert answer.headers["Sharpline-Model"] == "branches_x2"
    assert np.array_equal(decode(answer.content).rgb_hwc, read(enhanced).rgb_hwc)


def test_the_merged_network_gives_the_same(machine: Machine, bundle: Path) -> None:
    script = """
import sys, torch
from pathlib import Path
from superres.model.archs import ARCHS, build
from superres.model.backends.network import load_network
from superres.model.bundle import load_bundle
bundle = load_bundle(Path(sys.argv[1]))
merged = load_network(bundle)
plain = build("branches", bundle.info.arch.parameters).eval()
plain.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in bundle.weights().items()})
assert not any("conv1" in key for key in merged.state_dict())
lr_bchw = torch.rand(1, 3, 20, 24)
with torch.inference_mode():
    torch.testing.assert_close(merged(lr_bchw), plain(lr_bchw), rtol=1e-5, atol=1e-6)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, bundle],
        env=machine.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_weight_file_is_detected_by_its_keys(machine: Machine, bundle: Path) -> None:
    shutil.copy(bundle / "weights.safetensors", machine.root / "found.safetensors")
    imported = machine.result(
        *("models", "import", "found.safetensors", "--name", "found", "--licence", "CC0-1.0")
    )
    info = json.loads((Path(imported["bundle"]) / "bundle.json").read_text())
    assert info["arch"] == {
        "name": "branches",
        "parameters": {"upscale": 2, "num_feat": 16, "depth": 3},
        "package": "sharpline-example 1.0",
    }


def test_doctor_names_every_plugin_and_why_one_is_left_out(machine: Machine) -> None:
    findings = {
        finding["name"]: (finding["ok"], finding["found"])
        for finding in machine.result("doctor")["findings"]
        if finding["name"].startswith("plug-in")
    }
    for noun, name in (
        ("network", "branches"),
        ("loss", "gradient"),
        ("degradation", "posterise"),
        ("metric", "mae"),
        ("optimizer", "sgd"),
    ):
        assert findings[f"plug-in {name}"] == (True, f"{noun} of sharpline-example 1.0")
    reasons = {
        "raises": "no licence on this machine",
        "rrdb": "Sharpline has an entry of this name",
        "incomplete": "missing 1 required keyword-only argument: 'build'",
        "not_an_entry": "is of type dict, not training.losses.loss.Loss",
        "missing": "no attribute 'MISSING'",
        "named_otherwise": "its entry is named 'other'",
        "exits": "no licence on this machine",
    }
    for name, reason in reasons.items():
        ok, found = findings[f"plug-in {name}"]
        assert not ok
        assert "broken-plugins 0.1" in found
        assert reason in found


def test_gate_rules_may_name_its_metric(machine: Machine, tmp_path: Path) -> None:
    rules = (ROOT / "release" / "rules" / "gan.yaml").read_text()
    script = "import sys; from pathlib import Path; from release.rules import load_rules; print("
    script += "load_rules(Path(sys.argv[1])).perceptual_metrics)"
    path = tmp_path / "rules.yaml"
    for metric, reason in (("mae", "'mae'"), ("mea", "no metric 'mea'; did you mean mae?")):
        path.write_text(rules.replace("metric: dists", f"metric: {metric}"))
        done = subprocess.run(
            [sys.executable, "-c", script, path],
            env=machine.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert reason in done.stdout + done.stderr


def test_a_recipe_that_needs_a_bad_plugin_learns_why(machine: Machine, tmp_path: Path) -> None:
    recipe = (EXAMPLE / "recipe.yaml").read_text()
    path = tmp_path / "recipe.yaml"
    for changed, reason in (
        ("{name: incomplete, weight: 0.1}", "missing 1 required keyword-only argument"),
        ("{name: gradint, weight: 0.1, power: 1.0}", "did you mean gradient?"),
        (
            "{name: gradient, weight: 0.1, pover: 1.0}",
            "pover is not a recipe key; did you mean power?",
        ),
    ):
        path.write_text(recipe.replace("{name: gradient, weight: 0.1, power: 1.0}", changed))
        refused = machine.sharpline("train", path, "--data", "nowhere", fails=True)
        assert refused.returncode == 2
        assert reason in refused.stderr


def test_a_model_whose_package_is_gone_is_named_and_the_others_are_served(
    bundle: Path,
    tiny_bundle: Callable[..., Any],
    tmp_path: Path,
    picture_server: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This process does not have the package."""
    models = tmp_path / "models"
    shutil.copytree(bundle, models / "branches_x2")
    shutil.copytree(tiny_bundle().root, models / "compact_x2")
    server = picture_server(models)
    listed = server.client.get("/v1/models").json()
    assert [model["name"] for model in listed["models"]] == ["compact_x2"]
    assert "needs the network 'branches' of sharpline-example 1.0" in caplog.text
    png = encode(Picture(rgb_hwc=scene(1)), "png")
    assert server.client.post("/v1/enhance", content=png).status_code == 200
