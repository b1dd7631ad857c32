"""The commands' arguments and JSON results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from superres.common.errors import SharplineError, UsageError
from training.cli import train
from training.data.cli import data
from training.runs.spool import Spool

Run = Callable[..., dict[str, Any]]


def test_plan_shards_and_seal_give_the_same_result_as_one_build(
    run_data: Run, pictures: Path, tmp_path: Path
) -> None:
    source = (pictures, "--scale", 2, "--degrade", "bicubic", "--split-every", 3)
    planned = run_data("plan", *source, "--out", tmp_path / "a")
    assert (planned["shards"], planned["unchanged"]) == (1, False)
    assert run_data("build", "--plan", planned["plan"], "--shard", 0) == {"shard": 0, "pictures": 6}
    sealed = run_data("seal", "--plan", planned["plan"])
    built = run_data("build", *source, "--out", tmp_path / "b")
    assert Path(sealed.pop("path")).name == Path(built.pop("path")).name == planned["dataset"]
    assert (
        sealed
        == built
        == {
            "dataset": planned["dataset"],
            "pairs": {"train": 4, "validation": 2},
            "unchanged": False,
            "licences": ["CC0-1.0"],
            "left_out": 0,
        }
    )
    assert run_data("plan", *source, "--out", tmp_path / "a")["unchanged"] is True


def test_list_names_the_datasets(run_data: Run, dataset: Path, tmp_path: Path) -> None:
    assert run_data("list", "--out", dataset.parent)["datasets"] == [dataset.name]
    assert run_data("list", "--out", tmp_path / "none")["datasets"] == []


def test_several_sources_make_one_dataset(run_data: Run, pictures: Path, tmp_path: Path) -> None:
    built = run_data("build", "sample", "--also", pictures, "--out", tmp_path)
    assert built["pairs"] == {"train": 4, "validation": 4}
    # Six pictures of 72x56 are too small for x4: reported as left out.
    assert built["left_out"] == 6


@pytest.mark.parametrize(
    "arguments",
    [["build"], ["build", "sample", "--plan", "plan.json"], ["build", "sample", "--shard", "1"]],
)
def test_build_takes_a_source_or_a_plan(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        data(arguments)


@pytest.mark.parametrize("arguments", [[], ["biuld"], ["build", "sample", "--scale", "5"]])
def test_wrong_arguments_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        data(arguments)
    assert exit_.value.code == 2


def test_replay_sends_the_records_of_a_run(
    tmp_path: Path,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spool = Spool(tmp_path)
    spool.append(
        {
            "note": "run",
            "name": "tiny",
            "parameters": {},
            "tags": {},
            "key": "tiny-replay",
            "dataset_id": "0123",
            "dataset_source": "garden",
            "time_ms": 1_700_000_000_000,
        }
    )
    spool.append({"note": "metrics", "step": 1, "values": {"x": 1.0}, "time_ms": 1_700_000_000_001})
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", mlflow_server)
    assert train(["--replay", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == {"run_id": spool.run_id, "sent": 2}


def test_replay_without_mlflow_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spool(tmp_path).append({"note": "run", "key": "k"})
    monkeypatch.delenv("SHARPLINE_MLFLOW_URI", raising=False)
    with pytest.raises(UsageError, match="SHARPLINE_MLFLOW_URI"):
        train(["--replay", str(tmp_path)])
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SharplineError, match="cannot send the records"):
        train(["--replay", str(tmp_path)])
    with pytest.raises(UsageError, match=r"nowhere is not the folder of a run"):
        train(["--replay", str(tmp_path / "nowhere")])


def test_a_dataset_can_be_named_by_its_id(run_data: Run, pictures: Path, tmp_path: Path) -> None:
    built = run_data("build", pictures, "--scale", 2, "--degrade", "bicubic")
    shown = run_data("show", built["dataset"], "--out", tmp_path / "sheet.png", "--count", 2)
    assert shown["pairs"] == 2
    assert run_data("verify", built["dataset"])["findings"] == []
