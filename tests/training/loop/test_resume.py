"""A training that is killed and resumed ends bit-identical to an uninterrupted one."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SWINIR = {
    "name": "swinir",
    "parameters": {
        "upscale": 2,
        "window_size": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "embed_dim": 8,
        "mlp_ratio": 2,
        "upsampler": "pixelshuffledirect",
        "drop_path_rate": 0.5,  # uses torch's generator, so its state matters too
    },
}
EVERYTHING = {
    "arch": SWINIR,
    "losses": [
        {"name": "l1", "weight": 1.0},
        {"name": "gan", "weight": 0.1, "kind": "relativistic"},
        {"name": "ldl", "weight": 0.1},
    ],
    "discriminator": {"name": "unet", "parameters": {"num_feat": 2}, "learning_rate": 1e-3},
    "degradation": {"real_esrgan": 1.0, "bsrgan": 1.0, "bicubic_jpeg": 1.0},
    "precision": "bf16",
    "full__steps": 12,
    "full__batch": 4,
    "full__micro_batch": 2,
    "full__patches": [{"since": 0.0, "side": 8}, {"since": 0.5, "side": 16}],
    "full__validate_every": 5,
    "full__checkpoint_every": 3,
    "full__early_stop": {"patience": 9, "min_gain": 0.0},
}


def test_killed_and_resumed_equals_uninterrupted(
    recipe_file: Callable[..., Path], dataset: Path, tmp_path: Path, soak: bool
) -> None:
    kills = 10 if soak else 3
    script = Path(__file__).with_name("killed_trainings.py")
    arguments = [recipe_file(**EVERYTHING), dataset, tmp_path / "runs", kills]
    completed = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280 if not soak else 1200,
    )
    assert completed.returncode == 0, completed.stderr
    result = json.loads(completed.stdout.splitlines()[-1])
    assert len(result["runs"]) == kills
    for run in result["runs"]:
        assert run["exit_codes"] == [-signal.SIGKILL, 0], (run, completed.stderr)
        assert run["digest"] == result["whole"], run
    half_written = [run for run in result["runs"] if "written" in run["kill_point"]]
    assert all(any(name.endswith(".partial") for name in run["leftovers"]) for run in half_written)
    assert not list((tmp_path / "runs").glob("*/.*.partial"))
