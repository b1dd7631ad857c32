"""Two processes give the same result as one with the same global batch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sharpline.local.processes import choose_ports
from superres.common.errors import UsageError
from superres.model.bundle import load_bundle
from training.cli import train
from training.loop.distributed import DistributedContext, device_for_rank, process_group

CPU = torch.device("cpu")

# Rank 1 dies once, at a step after the first checkpoint; torchrun then restarts both ranks.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from training.cli import train
from training.loop.step import TrainStep

original, step, flag = TrainStep.__call__, [], Path(sys.argv.pop(1))

def call_or_die(self, *pair):
    step.append(1)
    if len(step) == 6 and os.environ["RANK"] == "1" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *pair)

TrainStep.__call__ = call_or_die
sys.exit(train(sys.argv[1:]))
"""


def test_a_slice_is_an_even_part_of_the_batch() -> None:
    assert DistributedContext(rank=1, world_size=4).batch_slice(8) == slice(2, 4)
    with pytest.raises(UsageError, match="batch 6 is not divisible by 4 processes"):
        DistributedContext(rank=0, world_size=4).batch_slice(6)


def test_a_device_is_resolved_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    found = {
        requested: str(device_for_rank(requested))
        for requested in ("auto", "cpu", "cuda", "cuda:1")
    }
    assert found == {"auto": "cuda:0", "cpu": "cpu", "cuda": "cuda:0", "cuda:1": "cuda:1"}
    for requested, reason in (
        ("gpu", "unknown device 'gpu'"),
        ("cuda:2", r"no CUDA device 2 \(2 are visible\)"),
    ):
        with pytest.raises(UsageError, match=reason):
            device_for_rank(requested)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(device_for_rank("auto")) == "cuda:1"
    with pytest.raises(UsageError, match="give cuda, not cuda:1"):
        device_for_rank("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert str(device_for_rank("auto")) == "cpu"
    with pytest.raises(UsageError, match="--device cpu"):
        device_for_rank("cuda")


def test_two_ranks_give_the_result_of_one(
    recipe_file: Callable[..., Path],
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    soak: bool,
) -> None:
    """In the long form one rank dies during training and torchrun restarts both."""
    loss = [{"name": "l1", "weight": 1.0}]
    recipe = recipe_file(
        full__batch=4,
        full__validate_every=100,
        losses=loss,
        degradation="{bicubic: 1, bsrgan: 1}",
    )
    arguments = [str(recipe), "--data", str(dataset), "--json"]
    assert train([*arguments, "--out", str(tmp_path / "one")]) == 0
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])

    script, flag = tmp_path / "train_or_die.py", tmp_path / "died"
    script.write_text(SCRIPT)
    if not soak:
        flag.touch()
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"),
        *("--standalone", "--monitor-interval=0.2", str(script), str(flag)),
    ]
    completed = subprocess.run(
        [*torchrun, *arguments, "--out", str(tmp_path / "two"), "--resume"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert completed.returncode == 0, completed.stderr
    assert flag.exists()
    assert ("resuming the interrupted run" in completed.stderr) == soak
    results = [json.loads(line) for line in completed.stdout.splitlines() if line.startswith("{")]
    assert len(results) == 1, "only rank 0 prints a result"
    (together,) = results
    assert together["steps"] == alone["steps"] == 12
    ours, theirs = (load_bundle(Path(each["bundle"])) for each in (together, alone))
    assert ours.info.training.device.startswith("2 x cpu")
    expected = theirs.weights()
    for key, value in ours.weights().items():
        assert value == pytest.approx(expected[key], rel=1e-3, abs=1e-5)


def test_a_world_size_without_a_rendezvous_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"RANK and MASTER_ADDR .*torchrun"), process_group(CPU):
        pass


MEAN_SCRIPT = """
import torch
from training.loop.distributed import process_group
with process_group(torch.device("cpu")) as distributed:
    assert distributed.mean(torch.tensor([float(distributed.rank)])).item() == 0.5
"""


def test_a_machine_that_rejoins_meets_the_others() -> None:
    """Each torchrun agent counts restarts for itself, so the two counts differ."""
    [port] = choose_ports(0)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEAN_SCRIPT],
            env={
                **os.environ,
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"},
                **{"RANK": str(rank), "TORCHELASTIC_RESTART_COUNT": str(starts)},
                **{"TORCHELASTIC_USE_AGENT_STORE": "False", "OMP_NUM_THREADS": "1"},
            },
        )
        for rank, starts in enumerate((1, 0))
    ]
    try:
        assert [each.wait(timeout=60) for each in processes] == [0, 0]
    finally:
        for each in processes:
            each.kill()
            each.wait()
