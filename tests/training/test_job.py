"""A run is one training's at a time, and nothing is begun that cannot be finished."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from superres.common.errors import SharplineError, UsageError
from superres.common.files import file_lock, writing
from training import job
from training.cli import train

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(recipe_file: Callable[..., Path], dataset: Path, tmp_path: Path) -> Arguments:
    def arguments(**changes: object) -> list[str]:
        recipe = recipe_file(**({"full__validate_every": 100} | changes))
        runs = str(tmp_path / "runs")
        return [str(recipe), "--data", str(dataset), "--out", runs, "--resume", "--json"]

    return arguments


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Train, and die before the bundle is written."""

    def train_and_die(arguments: list[str]) -> None:
        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(job, "publish", dies)
            with pytest.raises(KeyboardInterrupt):
                train(arguments)

    return train_and_die


def test_a_run_that_another_process_trains_is_refused_and_a_stale_lock_is_not(
    arguments: Arguments, broken_off: Callable[[list[str]], None], tmp_path: Path
) -> None:
    asked = arguments()
    broken_off(asked)
    (lock,) = (tmp_path / "runs").glob("*/lock")
    with file_lock(lock), pytest.raises(SharplineError, match="locked by another process"):
        train(asked)
    assert lock.exists()
    assert train(asked) == 0


def test_going_on_with_a_stage_that_ends_by_the_clock_claims_nothing(
    arguments: Arguments,
    broken_off: Callable[[list[str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = arguments(full__max_minutes=60.0)
    broken_off(asked)
    assert train(asked) == 0
    captured = capsys.readouterr()
    assert "these will not be the very bits" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["repeatable"] is False


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_first_step(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SharplineError, match="need 0 MB: free space, or choose another folder"):
        train(arguments())
    assert not (tmp_path / "runs").exists()


def test_a_network_that_cannot_be_is_refused_before_the_first_step(
    arguments: Arguments, tmp_path: Path
) -> None:
    parameters = {"num_feat": -8, "num_conv": 2, "upscale": 2}
    with pytest.raises(UsageError, match="recipe tiny_x2: arch: network 'compact' does not take"):
        train(arguments(arch__parameters=parameters))
    assert not (tmp_path / "runs").exists()


def test_an_mlflow_address_that_is_none_is_refused_before_the_first_step(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", "localhost")
    with pytest.raises(UsageError, match="SHARPLINE_MLFLOW_URI is 'localhost'"):
        train(arguments())
    assert not (tmp_path / "runs").exists()


def test_a_disk_full_at_a_validation_does_not_end_the_training(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validate, asked = job.validate, []

    def full_once(*given: Any, **named: Any) -> Any:
        asked.append(given)
        if len(asked) == 1:
            with writing(Path("samples")):
                raise OSError(errno.ENOSPC, "No space left on device")
        return validate(*given, **named)

    monkeypatch.setattr(job, "validate", full_once)
    assert train(arguments(full__validate_every=8)) == 0
    assert "no validation at step 8: cannot write samples" in capsys.readouterr().err
    assert len(asked) == 2


def test_pictures_smaller_than_a_patch_are_counted(
    arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SharplineError, match="no training picture is 198 pixels"):
        train(arguments(full__patches=[{"since": 0.0, "side": 12}, {"since": 0.5, "side": 99}]))
    assert train(arguments()) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["steps"], answer["repeatable"]) == (12, True)
