"""Initial weights: matching tensors are loaded, others newly initialised, and all are reported."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from superres.common.errors import SharplineError, UsageError
from superres.model.archs import build
from superres.model.bundle import Arch, Bundle, load_bundle
from training.bundles.provenance import InitialWeights
from training.cli import train
from training.weights import initial
from training.weights.external import ExternalWeights
from training.weights.initial import check_same_network, differences, load_initial, resolve

COMPACT = {"num_feat": 8, "num_conv": 2}
SWIN = {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8}
CLASSICAL = {**SWIN, "upsampler": "pixelshuffle"}
RRDB = {"num_feat": 8, "num_block": 1, "num_grow_ch": 4}
NAF = {"width": 8, "enc_blk_nums": [1], "dec_blk_nums": [1]}


def weights_of(arch: str, parameters: Mapping[str, Any]) -> InitialWeights:
    torch.manual_seed(1)
    state = build(arch, parameters).state_dict()
    return InitialWeights(
        name="start",
        id="ab" * 32,
        bundle_id="ab" * 32,
        arch=Arch(name=arch, parameters=dict(parameters)),
        weights={key: value.numpy() for key, value in state.items()},
        datasets=(),
        licences=(),
        weights_licence=None,
    )


@pytest.mark.parametrize(
    ("arch", "parent_parameters", "parameters", "new"),
    [
        ("compact", {**COMPACT, "upscale": 2}, {**COMPACT, "upscale": 2}, set()),
        (
            "compact",
            {**COMPACT, "upscale": 2},
            {**COMPACT, "upscale": 4},
            {"body.6.weight", "body.6.bias"},
        ),
        (
            "swinir",
            {**CLASSICAL, "upscale": 2},
            {**CLASSICAL, "upscale": 4},
            {"upsample.2.weight", "upsample.2.bias"},
        ),
        ("rrdb", {**RRDB, "scale": 4}, {**RRDB, "scale": 1}, {"conv_first.weight"}),
        ("srcnn", {"upscale": 2, "num_feat": 8}, {"upscale": 4, "num_feat": 8}, set()),
        ("nafnet", {**NAF, "pool": 0}, {**NAF, "pool": 16}, set()),
    ],
    ids=["same", "compact", "SwinIR", "RRDB", "SRCNN", "NAFNet"],
)
def test_at_another_scale_only_mismatched_tensors_are_newly_initialised(
    arch: str, parent_parameters: dict[str, Any], parameters: dict[str, Any], new: set[str]
) -> None:
    start = weights_of(arch, parent_parameters)
    check_same_network(arch, parameters, start)
    torch.manual_seed(2)
    fresh = {key: value.clone() for key, value in build(arch, parameters).state_dict().items()}
    torch.manual_seed(2)
    net = build(arch, parameters)
    report = load_initial(net, start)
    for key, value in net.state_dict().items():
        expected = fresh[key] if key in new else torch.from_numpy(start.weights[key])
        assert torch.equal(value, expected), key
    assert report.startswith(f"{len(fresh) - len(new)} of {len(fresh)} tensors from start (bundle")
    assert ("newly initialised" in report) == bool(new)
    assert all(key in report for key in new)


def test_parameters_without_weights_are_no_difference() -> None:
    """SwinIR's official weights were trained on another crop size than our recipe's."""
    parent_parameters = Arch(name="swinir", parameters={**CLASSICAL, "upscale": 4, "img_size": 64})
    parameters = {**CLASSICAL, "upscale": 2, "img_size": 48, "drop_path_rate": 0.1}
    assert differences(parent_parameters, parameters) == {
        "upscale": "upscale (4 in the weights, 2 in the recipe)"
    }


def test_the_report_gives_both_shapes_and_the_unused_tensors() -> None:
    start = weights_of("compact", {**COMPACT, "upscale": 4})
    report = load_initial(build("compact", {**COMPACT, "upscale": 2}), start)
    assert "body.6.weight 12x8x3x3 (was 48x8x3x3)" in report
    start = weights_of("swinir", {**CLASSICAL, "upscale": 4})
    report = load_initial(build("swinir", {**CLASSICAL, "upscale": 2}), start)
    assert report.endswith("unused: upsample.2.weight, upsample.2.bias")


@pytest.mark.parametrize(
    ("arch", "parameters", "reason"),
    [
        ("rrdb", RRDB, "network 'compact', the recipe trains 'rrdb'"),
        ("compact", {**COMPACT, "num_conv": 3}, r"num_conv \(2 in the weights, 3 in the recipe\)"),
        ("compact", {**COMPACT, "act_type": "relu"}, "act_type"),
    ],
)
def test_weights_of_another_network_are_refused_with_the_differences(
    arch: str, parameters: dict[str, Any], reason: str
) -> None:
    start = weights_of("compact", {**COMPACT, "upscale": 2})
    with pytest.raises(UsageError, match=reason):
        check_same_network(arch, parameters, start)


def test_defaults_and_sequence_types_are_no_difference() -> None:
    start = weights_of("swinir", {**CLASSICAL, "upscale": 2, "mlp_ratio": 4.0, "img_size": 48})
    check_same_network("swinir", {**CLASSICAL, "upscale": 2, "drop_path_rate": 0.1}, start)
    check_same_network("swinir", {**CLASSICAL, "mlp_ratio": 4, "depths": (2,)}, start)


def test_the_licence_of_a_file_of_weights_is_unstated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = weights_of("compact", {**COMPACT, "upscale": 2})

    def read(path: Path) -> ExternalWeights:
        return ExternalWeights(
            path=path, sha256="cd" * 32, arch=start.arch, weights=dict(start.weights)
        )

    monkeypatch.setattr(initial, "read_external", read)
    resolved = resolve(str(tmp_path / "net.pth"))
    assert (resolved.name, resolved.id, resolved.bundle_id) == ("net.pth", "cd" * 32, None)
    assert resolved.licences == ("unstated",)
    report = load_initial(build("compact", {**COMPACT, "upscale": 2}), resolved)
    assert "from net.pth (sha256 cdcdcdcdcdcd)" in report


def test_a_registered_model_is_fetched_by_its_alias(
    state: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Callable[..., Bundle]
) -> None:
    bundle, calls = tiny_bundle(), []

    def fetch(uri: str, name: str, alias: str, folder: Path) -> Bundle:
        calls.append((uri, name, alias, folder))
        return bundle

    monkeypatch.setattr(initial, "fetch_bundle", fetch)
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", "http://mlflow")
    assert resolve("registry:compact_x2@previous").id == bundle.id
    assert resolve("registry:compact_x2").name == "compact_x2"
    folder = state.resolve() / "initial"
    assert calls == [
        ("http://mlflow", "compact_x2", "previous", folder),
        ("http://mlflow", "compact_x2", "champion", folder),
    ]


def test_an_invalid_registry_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="write registry:NAME"):
        resolve("registry:../x")
    monkeypatch.delenv("SHARPLINE_MLFLOW_URI", raising=False)
    with pytest.raises(UsageError, match="SHARPLINE_MLFLOW_URI"):
        resolve("registry:compact_x2")


def test_missing_initial_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SharplineError, match="not a model bundle"):
        resolve(str(tmp_path))
    with pytest.raises(UsageError, match="there is no file"):
        resolve(str(tmp_path / "net.pth"))


def test_a_training_from_another_scale_reports_it_everywhere(
    tiny_recipe: Path,
    dataset: Path,
    tmp_path: Path,
    tiny_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from training.runs.spool import Spool

    monkeypatch.delenv("SHARPLINE_MLFLOW_URI", raising=False)
    parent = tiny_bundle(name="compact_x4", scale=4)
    arguments = [str(tiny_recipe), "--data", str(dataset), "--init", str(parent.root)]
    assert train([*arguments, "--parent-run", "finetune 1", "--out", str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    info = load_bundle(run / "tiny_x2").info
    assert info.training.start is not None
    assert f"from compact_x4 (bundle {parent.id[:12]}); newly initialised: body." in (
        info.training.start
    )
    assert info.training.parent == parent.id
    assert info.training.losses == ("l1",)
    assert f"tiny_x2: loaded {info.training.start}" in capsys.readouterr().err
    assert info.training.start in load_bundle(run / "tiny_x2").card()
    run_record, *_ = (record for record, _ in Spool(run).unsent())
    assert run_record["tags"]["start"] == f"loaded {info.training.start}"
    assert run_record["parent_run"] == "finetune 1"
    assert run_record["tags"]["validation_protocol"].endswith("x2, Y, border 2, bicubic, 8 bit")
    assert {"python", "torch", "packages_sha256"} <= run_record["parameters"].keys()


def test_a_parent_run_name_with_a_quote_is_refused() -> None:
    with pytest.raises(SystemExit):
        train(["compact_x4", "--parent-run", "it's"])
