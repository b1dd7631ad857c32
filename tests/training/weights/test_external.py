"""External weights: every layout is converted to our networks, and no code in them runs."""

import ast
import importlib
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from superres.common.errors import SharplineError, UsageError
from superres.model.archs import ARCHS, build, dat, span, swinir
from superres.model.archs.derived import without_keys
from superres.model.bundle import load_bundle
from training.weights import external, unpickle
from training.weights.external import ExternalWeightsRefused, read_external
from training.weights.unpickle import Refused, convert, read_state

RRDB = {"num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_feat": 8, "num_block": 2}
SWIN = {
    "img_size": 32,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 8,
    "mlp_ratio": 2,
}
DAT = {
    "embed_dim": 32,
    "depth": [3],
    "num_heads": [2],
    "split_size": [4, 8],
    "expansion_factor": 2.0,
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "RRDB x4": ("rrdb", RRDB),
    "RRDB x2": ("rrdb", {**RRDB, "scale": 2}),
    "compact": ("compact", {"num_feat": 8, "num_conv": 2, "upscale": 2}),
    "SwinIR classical": ("swinir", {**SWIN, "upscale": 4, "upsampler": "pixelshuffle"}),
    "SwinIR light": ("swinir", {**SWIN, "upscale": 2, "upsampler": "pixelshuffledirect"}),
    "SwinIR real x2": ("swinir", {**SWIN, "upscale": 2, "upsampler": "nearest+conv"}),
    "SwinIR denoising": ("swinir", {**SWIN, "upscale": 1, "upsampler": ""}),
    "NAFNet": ("nafnet", {"width": 8, "enc_blk_nums": [1], "dec_blk_nums": [1], "pool": 0}),
    "SPAN": ("span", {"feature_channels": 6, "upscale": 2}),
    "SPAN without norm": ("span", {"feature_channels": 6, "upscale": 4, "norm": False}),
    "PLKSR": ("plksr", {"dim": 8, "n_blocks": 2, "kernel_size": 5, "use_ea": False}),
    "DAT": ("dat", {**DAT, "upscale": 2, "upsampler": "pixelshuffle", "resi_connection": "1conv"}),
    "DAT-light": (
        "dat",
        {**DAT, "upscale": 4, "upsampler": "pixelshuffledirect", "resi_connection": "3conv"},
    ),
}


# Networks with derived tensors: spandrel's class, which keys they are, parameters only it has.
DERIVED: dict[str, tuple[str, Callable[[str], bool], dict[str, Any]]] = {
    "swinir": ("SwinIR", swinir.is_derived, {}),
    "span": ("SPAN", span.is_derived, {"num_in_ch": 3, "num_out_ch": 3}),
    "dat": ("DAT", dat.is_derived, {"img_size": 16}),
}


def seeded(arch: str, parameters: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Weights of a tiny network, with the derived tensors that the authors' files contain."""
    torch.manual_seed(seed)
    state = dict(build(arch, parameters).state_dict())
    if arch in DERIVED:
        name, _, theirs_alone = DERIVED[arch]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("training.basicsr_bridge").patch_torchvision()
            network = getattr(importlib.import_module(f"spandrel.architectures.{name}"), name)
            theirs = network(**parameters, **theirs_alone)
        theirs.load_state_dict(state, strict=False)
        state = dict(theirs.state_dict())
    return state


def old_esrgan_name(key: str) -> str:
    """The oldest names of ESRGAN's layers: model.0, model.1.sub.0.RDB1.conv1.0, ..."""
    outer = {
        "conv_first": "model.0",
        "conv_body": "model.1.sub.2",
        "conv_up1": "model.3",
        "conv_up2": "model.6",
        "conv_hr": "model.8",
        "conv_last": "model.10",
    }
    layer, _, kind = key.rpartition(".")
    if layer in outer:
        return f"{outer[layer]}.{kind}"
    _, block, dense, convolution = layer.split(".")
    return f"model.1.sub.{block}.{dense.upper()}.{convolution}.0.{kind}"


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_layout_is_converted(kind: str) -> None:
    arch, parameters = NETWORKS[kind]
    state = seeded(arch, parameters)
    name, found, weights = convert(state)
    assert name == arch
    assert {key: found[key] for key in parameters} == parameters
    expected = without_keys(state, DERIVED[arch][1]) if arch in DERIVED else state
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in weights)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"params_ema": state, "params": seeded("rrdb", RRDB, seed=9)},
        lambda state: {"params": state},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {old_esrgan_name(key): value for key, value in state.items()},
        lambda state: {key: value.half() for key, value in state.items()},
    ],
    ids=["averaged first", "params", "DataParallel", "old ESRGAN", "half precision"],
)
def test_wrappers_and_prefixes_are_removed(wrap: Callable[..., Any], tmp_path: Path) -> None:
    state = seeded("rrdb", RRDB)
    torch.save(wrap(state), tmp_path / "net.pth")
    _, _, weights = convert(read_state(tmp_path / "net.pth"))
    for key, value in state.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-2, atol=1e-3)


class MaliciousPickle:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "loot", tmp_path / "net.pth"
    torch.save({"params": seeded(*NETWORKS["compact"]), "extra": MaliciousPickle(marker)}, path)
    with pytest.raises(ExternalWeightsRefused, match=r"calls \w+\.system.*none of its code"):
        read_external(path)
    assert not marker.exists()
    # Check of the test itself: unpickled without weights_only, the code does run.
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_with_code_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    marker, path = tmp_path / "loot", tmp_path / "net.pth"
    path.write_bytes(pickle.dumps({"extra": MaliciousPickle(marker)}, protocol=protocol))
    with pytest.raises(Refused) as refused:
        read_state(path)
    assert "weights_only" not in str(refused.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 1}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
        ({"strange.weight": torch.zeros(3)}, "its network is unknown"),
        ({"body.0.weight": torch.zeros(8, 1, 3, 3)}, "its network is unknown"),
    ],
)
def test_unknown_content_is_refused_with_the_reason(
    content: object, reason: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(Refused, match=reason):
        convert(read_state(tmp_path / "net.pth"))


def test_a_plugin_cannot_take_over_the_weights_of_a_built_in_network(
    plug_in: Callable[..., None],
) -> None:
    compact = ARCHS.get("compact")
    assert compact.spandrel is not None
    plug_in(ARCHS, replace(compact, name="acme"))
    state = build("compact", {"num_feat": 8, "num_conv": 2}).state_dict()
    assert convert(state)[0] == "compact"


def test_a_detector_that_fails_is_named_and_the_next_is_asked(
    plug_in: Callable[..., None],
) -> None:
    fails = replace(ARCHS.get("vdsr"), name="acme", detect=lambda state: state["its own key"])
    finds = replace(ARCHS.get("vdsr"), name="bcme", detect=lambda state: {"num_conv": 3})
    state = build("vdsr", {"num_conv": 3}).state_dict()
    plug_in(ARCHS, fails, finds)
    assert convert(state)[:2] == ("bcme", {"num_conv": 3})
    plug_in(ARCHS, fails)
    with pytest.raises(Refused, match=r"network is unknown.*network 'acme': KeyError"):
        convert(state)


def test_unsupported_networks_are_refused() -> None:
    with pytest.raises(Refused, match="1 channels to"):
        convert(seeded("compact", {**NETWORKS["compact"][1], "num_in_ch": 1, "num_out_ch": 1}))
    small = seeded("rrdb", RRDB)
    double = {old_esrgan_name(key): value for key, value in small.items()}
    for wrong, right in (("model.6.", None), ("model.8.", "model.5."), ("model.10.", "model.7.")):
        for key in [key for key in double if key.startswith(wrong)]:
            value = double.pop(key)
            if right:
                double[key.replace(wrong, right)] = value
    with pytest.raises(Refused, match="scale 2 without pixel-unshuffle"):
        convert(double)
    plksr = importlib.import_module("spandrel.architectures.PLKSR")
    for network, reason in (
        (plksr.RealPLKSR(dim=8, n_blocks=1, kernel_size=5), "RealPLKSR is not supported"),
        (plksr.PLKSR(dim=8, n_blocks=1, kernel_size=9, lk_type="RectSparsePLK"), "rectangular"),
    ):
        with pytest.raises(Refused, match=reason):
            convert(network.state_dict())


def test_a_network_with_another_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "MAX_DIFFERENCE", -1.0)
    with pytest.raises(Refused, match="output differs from ours"):
        convert(seeded(*NETWORKS["compact"]))


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(damage: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(seeded(*NETWORKS["compact"]), path)
    whole = path.read_bytes()
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes({"cut": whole[:-300], "noise": whole[::-1], "empty": b""}[damage])
    with pytest.raises(Refused):
        read_state(broken)


def test_invalid_files_are_refused_before_a_process_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        read_external(tmp_path / "net.pth")
    picture = tmp_path / "net.png"
    picture.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"end in \.pth"):
        read_external(picture)
    oversized = tmp_path / "net.pth"
    oversized.write_bytes(b"x")
    monkeypatch.setattr(external, "MAX_BYTES", 0)
    with pytest.raises(ExternalWeightsRefused, match="larger than 0 GiB"):
        read_external(oversized)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "killed by SIGXCPU"),
        ("raise MemoryError('too large')", "could not be read: MemoryError: too large"),
        ("import time; time.sleep(60)", "timed out"),
    ],
)
def test_a_failed_reading_process_is_an_error_of_the_file(
    program: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading process is replaced by programs that fail in different ways."""
    path = tmp_path / "net.pth"
    path.write_bytes(b"x")
    real = external.subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        return real([command[0], "-c", program], **options)

    monkeypatch.setattr(external.subprocess, "run", run)
    monkeypatch.setattr(external, "TIMEOUT_SECONDS", 5.0 if "sleep" not in program else 0.3)
    with pytest.raises(ExternalWeightsRefused, match=reason):
        read_external(path)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle imported by the command from a file with the oldest keys."""
    from training.weights.cli import import_

    folder = tmp_path_factory.mktemp("imported")
    state = {old_esrgan_name(key): value for key, value in seeded("rrdb", RRDB).items()}
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "old.pth")
    arguments = [str(folder / "old.pth"), "--name", "old_x4", "--licence", "Apache-2.0"]
    arguments += ["--source", "https://example.org/old.pth", "--adversarial", "--json"]
    arguments += ["--trained-on", "DIV2K=research only", "--out", str(folder)]
    assert import_(arguments) == 0
    return folder / "old_x4"


def test_an_imported_bundle_states_its_provenance_and_works(imported: Path) -> None:
    from superres.model.backends import load_backend
    from superres.model.upscaler import Upscaler

    bundle = load_bundle(imported)
    info = bundle.info
    assert (info.scale, info.task, info.arch.name) == (4, "super-resolution", "rrdb")
    assert info.training.losses == ("gan",)
    assert info.training.start is not None
    assert "https://example.org/old.pth" in info.training.start
    assert info.licence.weights == "Apache-2.0"
    assert info.licence.lineage == ("Apache-2.0", "research only")
    assert info.licence.commercial_use == "no"
    assert info.bounds.precision_levels
    card = bundle.card()
    assert "Not trained by Sharpline" in card
    assert "DIV2K (research only)" in card
    assert "invents plausible texture" in card
    assert "did not state which degradations it was trained for" in card
    exact = load_backend(bundle, backend="torch", device="cpu", precision="fp32")
    golden_input, golden_output = bundle.golden()
    output = Upscaler(bundle, exact).whole(golden_input)
    assert np.array_equal(output.rgb_hwc, golden_output.rgb_hwc)


def test_invalid_imports_are_refused(imported: Path, tmp_path: Path) -> None:
    from training.recipe import load_recipe
    from training.weights.cli import import_
    from training.weights.external import ExternalWeights
    from training.weights.weight_import import WeightsProvenance, import_weights

    bundle = load_bundle(imported)
    weights = ExternalWeights(
        path=Path("old.pth"), sha256="0" * 64, arch=bundle.info.arch, weights=bundle.weights()
    )
    provenance = WeightsProvenance(name="old_x4", licence="Apache-2.0")
    with pytest.raises(UsageError, match="already exists"):
        import_weights(weights, provenance, imported.parent, None)
    with pytest.raises(UsageError, match=r"num_feat \(8 in the weights, 32 in the recipe\)"):
        import_weights(weights, provenance, tmp_path, load_recipe("esrgan_small_x4"))
    with pytest.raises(UsageError, match="recipe compact_x4 has 'compact'"):
        import_weights(weights, provenance, tmp_path, load_recipe("compact_x4"))
    with pytest.raises(UsageError, match="--licence is empty"):
        import_(["old.pth", "--name", "a", "--licence", " "])
    with pytest.raises(SystemExit):
        import_(["old.pth", "--name", "a", "--licence", "b", "--trained-on", "DIV2K"])


def test_a_published_checkpoint_is_read(reference_data: Path) -> None:
    found = read_external(reference_data / "weights" / "realesr-animevideov3.pth")
    assert found.arch.name == "compact"
    assert (found.arch.parameters["num_conv"], found.arch.parameters["upscale"]) == (16, 4)
    with pytest.raises(SharplineError):
        read_external(reference_data / "weights" / "README.md")


def test_every_file_is_unpickled_weights_only() -> None:
    """Including our own checkpoints: no loaded file may run code."""
    root = Path(__file__).resolve().parents[3]
    seen = 0
    for package in ("sharpline", "superres", "training", "release", "serving", "pipelines"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                called = ast.unparse(node.func)
                assert called not in ("torch.jit.load", "joblib.load", "torch.export.load"), path
                if called == "torch.load":
                    keywords = {
                        keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords
                    }
                    assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
                    seen += 1
                if called in ("np.load", "numpy.load"):
                    keywords = {
                        keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords
                    }
                    assert keywords.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"
    assert seen >= 2
