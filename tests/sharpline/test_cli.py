"""The `sharpline` command: its table of sub-commands, exit codes and missing extras."""

import subprocess
import sys

import pytest

from sharpline import cli
from superres.common.errors import SharplineError, UsageError


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.run([*name.split(), "--help"])
    assert stopped.value.code == 0
    assert f"sharpline {name}" in capsys.readouterr().out


def test_missing_and_unknown_commands_show_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    assert "enhance" in capsys.readouterr().out
    assert cli.run([]) == 2
    assert cli.run(["frobnicate"]) == 2
    assert "frobnicate" in capsys.readouterr().err
    assert cli.run(["enhanse", "a.png"]) == 2
    assert "no command 'enhanse'; did you mean enhance?" in capsys.readouterr().err
    assert cli.run(["models"]) == 2
    assert "models is one of the commands models pull, models import" in capsys.readouterr().err
    assert cli.run(["models", "pulll", "x"]) == 2
    assert "no command 'models pulll'; did you mean models pull?" in capsys.readouterr().err


def test_a_misspelt_setting_is_refused_by_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHARPLINE_QUEUE__MAX_WAIT_SECONDS", "5")  # another command's, so accepted
    monkeypatch.setattr("sharpline.local.cli.doctor", lambda argv: 0)
    assert cli.run(["doctor"]) == 0
    monkeypatch.setenv("SHARPLINE_STAET", "/data")
    assert cli.run(["doctor"]) == 2
    assert "SHARPLINE_STAET is not a setting" in (printed := capsys.readouterr().err)
    assert "did you mean SHARPLINE_STATE?" in printed


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (SharplineError("free some space"), 1, "free some space"),
        (UsageError("no such key"), 2, "no such key"),
        (ModuleNotFoundError("No module named 'airflow'", name="airflow"), 1, "sharpline[all]"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_become_one_line_and_a_code(
    raised: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(argv: list[str]) -> int:
        raise raised

    monkeypatch.setattr("sharpline.local.cli.doctor", fail)
    assert cli.run(["doctor"]) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_an_import_error_of_our_own_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = cli.Command("sharpline.absent:nothing", "", "all")
    monkeypatch.setitem(cli.COMMANDS, "absent", missing)
    with pytest.raises(ModuleNotFoundError):
        cli.run(["absent"])


def test_the_usage_imports_no_heavy_library() -> None:
    code = (
        "import sys, sharpline.cli\nsharpline.cli.usage()\n"
        "heavy = {'torch', 'airflow', 'mlflow', 'basicsr', 'fastapi', 'numpy'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
