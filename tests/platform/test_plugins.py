"""Packages add networks, losses, degradations, metrics and optimizers; bad ones are left out."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from release.rules import load_rules
from superres.common.errors import UsageError
from superres.image.codecs import Picture, decode, encode, read, write
from superres.model.archs import Architecture
from superres.quality.metrics import QUALITY_METRICS

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
a_detector = "broken_plugins:A_DETECTOR"
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
A_DETECTOR = Architecture(  # asked before `branches`
    name="a_detector",
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


# Runs commands that arrive as JSON lines, in one process, because torch takes seconds to import.
COMMANDS = """
import contextlib, io, json, sys
from sharpline.cli import run
results = sys.stdout
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=results, flush=True)
"""


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
        self._commands: subprocess.Popen[str] | None = None

    def start(self, *command: object, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*map(str, command)],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )

    def sharpline(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command."""
        if self._commands is None:
            self._commands = self.start(sys.executable, "-c", COMMANDS, stdin=subprocess.PIPE)
        process = self._commands
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps([*map(str, arguments)]), file=process.stdin, flush=True)
        code, out, err = json.loads(process.stdout.readline())
        return code, out, err

    def result(self, *arguments: object) -> dict[str, Any]:
        """The JSON result of a command."""
        code, out, err = self.sharpline(*arguments, "--json")
        assert code == 0, err
        return json.loads(out.splitlines()[-1])

    def stop(self) -> None:
        if self._commands is not None:
            self._commands.communicate()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With the example package and one whose entries are all bad."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    example, broken = machine.root / "example", machine.root / "broken"
    shutil.copytree(EXAMPLE, example)
    broken.mkdir()
    for name, text in BROKEN.items():
        (broken / name).write_text(text)
    install(example, machine.site)
    install(broken, machine.site)
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def bundle(machine: Machine) -> Path:
    """A bundle trained and published with the example package."""
    for seed in range(6):
        write(machine.root / "scenes" / f"{seed}.png", Picture(rgb_hwc=scene(seed)))
    machine.result("data", "add", "scenes", "--licence", "CC0-1.0", "--i-own-the-rights")
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
    card = machine.result("evaluate", bundle, "--on", "scenes", "--metrics", "psnr,mae")
    assert card["model"] == "branches_x2"
    assert card["refused"] == {}
    mae = card["metrics"]["mae"]
    assert 0 < mae["mean"] < 255


def test_the_served_picture_is_that_of_enhance(
    machine: Machine, bundle: Path, await_true: Callable[..., Any]
) -> None:
    picture = machine.root / "scenes" / "0.png"
    code, _, error = machine.sharpline("enhance", picture, "-o", "enhanced", "--model", bundle)
    assert code == 0, error
    (enhanced,) = (machine.root / "enhanced").glob("*.png")
    models = machine.root / "models"
    shutil.copytree(bundle, models / "branches_x2")
    with machine.start(SHARPLINE, "serve", "--port", 0, "--models", models, "--json") as server:
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


def test_the_merged_network_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    arch: Architecture = importlib.import_module("sharpline_example.branches").ARCH
    torch.manual_seed(0)
    network = arch.build({"num_feat": 8, "depth": 4}).eval()
    lr_bchw = torch.rand(1, 3, 20, 24)
    with torch.inference_mode():
        before = network(lr_bchw)
        merged = arch.reparameterise(network)
        torch.testing.assert_close(merged(lr_bchw), before, rtol=1e-5, atol=1e-6)
    assert not any("conv1" in key for key in merged.state_dict())


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


def test_gate_rules_may_name_its_metric(
    plug_in: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    plug_in(QUALITY_METRICS, importlib.import_module("sharpline_example.mae").METRIC)
    rules = (ROOT / "release" / "rules" / "gan.yaml").read_text()
    path = tmp_path / "rules.yaml"
    path.write_text(rules.replace("metric: dists", "metric: mae"))
    assert load_rules(path).perceptual_metrics == {"lpips", "mae"}
    path.write_text(rules.replace("metric: dists", "metric: mea"))
    with pytest.raises(UsageError, match=r"no metric 'mea'; did you mean mae\?"):
        load_rules(path)


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
        code, _, error = machine.sharpline("train", path, "--data", "nowhere")
        assert code == 2
        assert reason in error


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
