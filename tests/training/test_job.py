"""Locking, resuming and checks of training jobs."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from superres.common.errors import SharplineError, UsageError
from superres.common.files import file_lock, translate_write_errors
from training import session
from training.cli import train

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(recipe_file: Callable[..., Path], dataset: Path, tmp_path: Path) -> Arguments:
    def arguments(**changes: object) -> list[str]:
        recipe = recipe_file(**({"full__validate_every": 100} | changes))
        runs = str(tmp_path / "runs")
        return [str(recipe), "--data", str(dataset), "--out", runs, "--resume", "--json"]

    return arguments


def test_a_run_of_another_process_is_refused_and_a_stale_lock_is_ignored(
    arguments: Arguments, train_interrupted: Callable[[list[str]], None], tmp_path: Path
) -> None:
    cli_arguments = arguments()
    train_interrupted(cli_arguments)
    (lock,) = (tmp_path / "runs").glob("*/lock")
    with file_lock(lock), pytest.raises(SharplineError, match="locked by another process"):
        train(cli_arguments)
    assert lock.exists()
    assert train(cli_arguments) == 0


def test_resuming_a_stage_with_a_time_limit_is_not_repeatable(
    arguments: Arguments,
    train_interrupted: Callable[[list[str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli_arguments = arguments(full__max_minutes=60.0)
    train_interrupted(cli_arguments)
    assert train(cli_arguments) == 0
    captured = capsys.readouterr()
    assert "the result will not be bit-identical" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["repeatable"] is False


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_first_step(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SharplineError, match="need 0 MB: free space, or choose another folder"):
        train(arguments())
    assert not (tmp_path / "runs").exists()


def test_an_invalid_network_is_refused_before_the_first_step(
    arguments: Arguments, tmp_path: Path
) -> None:
    parameters = {"num_feat": -8, "num_conv": 2, "upscale": 2}
    with pytest.raises(UsageError, match="recipe tiny_x2: arch: network 'compact' does not take"):
        train(arguments(arch__parameters=parameters))
    assert not (tmp_path / "runs").exists()


def test_an_invalid_mlflow_url_is_refused_before_the_first_step(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", "localhost")
    with pytest.raises(UsageError, match="SHARPLINE_MLFLOW_URI is 'localhost'"):
        train(arguments())
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_at_a_validation_does_not_end_the_training(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validate, calls = session.validate, []

    def full_once(*positional: Any, **named: Any) -> Any:
        calls.append(positional)
        if len(calls) == 1:
            with translate_write_errors(Path("samples")):
                raise OSError(errno.ENOSPC, "No space left on device")
        return validate(*positional, **named)

    monkeypatch.setattr(session, "validate", full_once)
    assert train(arguments(full__validate_every=8)) == 0
    assert "no validation at step 8: cannot write samples" in capsys.readouterr().err
    assert len(calls) == 2


def test_pictures_smaller_than_a_patch_are_counted(
    arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SharplineError, match="no training picture is at least 198 pixels"):
        train(arguments(full__patches=[{"since": 0.0, "side": 12}, {"since": 0.5, "side": 99}]))
    assert train(arguments()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["steps"], result["repeatable"]) == (12, True)
