"""`make bench` measures what is there and says what it left out."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_bundle_is_measured(tmp_path: Path) -> None:
    models = sorted(path.parent for path in ROOT.glob("models/*/bundle.json"))[:1]
    (tmp_path / "models").mkdir()
    for model in models:
        (tmp_path / "models" / model.name).symlink_to(model)
    out = tmp_path / "bench.json"
    done = bench(
        "--models",
        str(tmp_path / "models"),
        "--height",
        "24",
        "--width",
        "32",
        "--runs",
        "1",
        "--out",
        str(out),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == result
    assert {speed["model"] for speed in result["speeds"]} == {model.name for model in models}
    assert all(speed["megapixels_per_second"] > 0 for speed in result["speeds"])


def test_empty_folder_is_said(tmp_path: Path) -> None:
    done = bench("--models", str(tmp_path), "--out", str(tmp_path / "bench.json"))
    assert done.returncode == 1
    assert "there is no bundle" in done.stderr
