"""`sharpline bench` measures the available backends and logs the others."""

import json
from pathlib import Path

import pytest

from sharpline.cli import run
from superres.model import benchmark as benchmark_module
from superres.model.backends import BackendUnavailable, load_backend


def bench(bundle, *arguments: str) -> int:
    return run(["bench", str(bundle.root), "--size", "32x24", "--runs", "1", *arguments])


def test_a_bundle_is_benchmarked_on_every_backend(
    tiny_bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, out = tiny_bundle(), tmp_path / "bench.json"
    assert bench(bundle, "--out", str(out), "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads(out.read_text())
    assert result["picture"] == {"width": 32, "height": 24, "runs": 1}
    configurations = [(one["backend"], one["precision"]) for one in result["speeds"]]
    assert configurations == list(benchmark_module.CONFIGURATIONS)
    for one in result["speeds"]:
        assert one["model"] == bundle.info.name
        output_megapixels = 32 * 24 * bundle.info.scale**2 / 1e6
        assert one["megapixels_per_second"] == pytest.approx(
            output_megapixels / one["seconds"], rel=0.5
        )


def test_unavailable_backends_are_logged_and_skipped(
    tiny_bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_openvino(bundle, *, backend: str, device: str, precision: str):
        if backend == "openvino":
            raise BackendUnavailable("OpenVINO is not installed")
        return load_backend(bundle, backend=backend, device=device, precision=precision)

    monkeypatch.setattr(benchmark_module, "load_backend", without_openvino)
    assert bench(tiny_bundle()) == 0
    shown = capsys.readouterr()
    rows = [line for line in shown.out.splitlines() if line.startswith("| compact")]
    assert [row.split(" | ")[1] for row in rows] == ["torch fp32", "torch bf16"]
    assert "on openvino bf16 left out: OpenVINO is not installed" in shown.err


@pytest.mark.parametrize("arguments", [["--size", "480"], ["--size", "0x9"], ["--runs", "0"]])
def test_invalid_arguments_are_refused(arguments, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["bench", "compact_x4", *arguments])
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_an_unknown_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "nothing"]) == 1
    assert "no model 'nothing'" in capsys.readouterr().err
