"""`make setup` and the CI scripts, with fake Python, pip and df programs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A fake Python: accepts the version check, creates a virtual environment, and logs every call.
PYTHON = """#!/bin/bash
echo "$*" >> "$CALLS"
case "$*" in
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *uv_install.py*) exit "${UV_FAILS:-0}" ;;
    *"pip install"*-e*) exit "${PIP_FAILS:-0}" ;;
esac
"""
TOO_NEW = """#!/bin/bash
exit 1
"""
LITTLE_DISK = """#!/bin/bash
echo Filesystem 1048576-blocks Used Available
echo /dev/disk 1000 877 123 88% /
"""


class Checkout:
    """A copy of the set-up files, and a PATH whose first folder has the test's fake programs."""

    def __init__(self, root: Path) -> None:
        self.root, self.programs, self.calls_file = root / "repo", root / "bin", root / "calls"
        self.programs.mkdir()
        self.root.mkdir()
        shutil.copytree(ROOT / ".ci", self.root / ".ci")
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        for name in ("python3.11", "python3.12", "python3", "python"):
            self.program(name, PYTHON)

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(script)
        path.chmod(0o755)

    def make(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        self.calls_file.write_text("")
        path = f"{self.programs}:/usr/bin:/bin"
        return subprocess.run(
            ["make", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": path, "CALLS": str(self.calls_file), **environ},
        )

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_setup_installs_the_pinned_versions_without_build_isolation(checkout: Checkout) -> None:
    done = checkout.make("setup")
    assert done.returncode == 0, done.stderr
    tools, uv, packages = [call for call in checkout.calls if "install" in call]
    assert "pip==" in tools
    assert "setuptools==" in tools
    assert "uv==" in uv
    assert packages.startswith(".ci/uv_install.py")
    assert packages.endswith("--no-build-isolation -c constraints.txt -e .[all]")
    assert checkout.calls[-1] == "-m pip check"


def test_pip_installs_the_packages_where_uv_fails(checkout: Checkout) -> None:
    done = checkout.make("setup", UV_FAILS="1")
    assert done.returncode == 0, done.stderr
    assert "uv could not install the packages; pip tries it" in done.stderr
    last = [call for call in checkout.calls if "install" in call][-1]
    assert last.startswith("-m pip install")
    assert last.endswith("--no-build-isolation -c constraints.txt -e .[all]")


def test_second_setup_does_nothing_until_the_pins_change(checkout: Checkout) -> None:
    assert checkout.make("setup").returncode == 0
    assert checkout.make("setup").returncode == 0
    assert checkout.calls == []
    ready = (checkout.root / ".venv/.ready").stat().st_mtime
    os.utime(checkout.root / "constraints.txt", (ready + 5, ready + 5))
    assert checkout.make("setup").returncode == 0
    assert any("uv_install.py" in call for call in checkout.calls)
    assert not any("venv" in call for call in checkout.calls)


def test_failed_install_is_retried(checkout: Checkout) -> None:
    failed = checkout.make("setup", UV_FAILS="1", PIP_FAILS="1")
    assert failed.returncode != 0
    assert "could not be installed" in failed.stderr
    assert checkout.make("setup").returncode == 0
    assert any("-e .[all]" in call for call in checkout.calls)


UV = """#!/bin/bash
echo "$@"
env | grep -E '^(UV_|SSL_)' | sort
"""
PIP_SETTINGS = r"""#!/bin/bash
cat <<'END'
:env:.find-links='/wheels /more'
global.extra-index-url='\nhttps://a.example/simple\nhttps://b.example/simple'
global.find-links='/overridden'
global.index-url='https://main.example/simple'
global.timeout='60'
:env:.index-url=''
download.no-index='true'
install.constraint='/etc/constraints of all.txt'
END
"""


def uv_install(root: Path, settings: str, **environ: str) -> list[str]:
    """Output of a fake uv: its arguments, and its variables one a line."""
    programs = root / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, script in (("python", settings), ("uv", UV)):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    command = [sys.executable, ROOT / ".ci/uv_install.py", "-e", ".[all]"]
    environment = {"PATH": "/usr/bin:/bin", **environ}
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.splitlines()


def test_uv_gets_the_settings_of_pip(tmp_path: Path) -> None:
    assert uv_install(tmp_path, PIP_SETTINGS) == [
        "pip install --python .venv/bin/python -e .[all]",
        "UV_CONSTRAINT=/etc/constraints of all.txt",
        "UV_DEFAULT_INDEX=https://main.example/simple",
        "UV_FIND_LINKS=/wheels,/more",
        "UV_INDEX=https://a.example/simple https://b.example/simple",
        "UV_INDEX_STRATEGY=unsafe-best-match",
    ]


def test_uv_uses_no_index_where_pip_uses_none(tmp_path: Path) -> None:
    settings = "#!/bin/bash\necho \"global.no-index='true'\"\n"
    [command] = uv_install(tmp_path, settings)
    assert command == "pip install --python .venv/bin/python --no-index -e .[all]"


def test_settings_of_uv_win_over_those_of_pip(tmp_path: Path) -> None:
    printed = uv_install(tmp_path, PIP_SETTINGS, UV_INDEX="https://own.example/simple")
    assert "UV_INDEX=https://own.example/simple" in printed


def test_without_settings_uv_runs_as_it_is(tmp_path: Path) -> None:
    assert uv_install(tmp_path, "#!/bin/bash\n") == [
        "pip install --python .venv/bin/python -e .[all]"
    ]


def test_unsupported_pythons_are_an_error_and_leave_nothing(checkout: Checkout) -> None:
    for name in ("python3.11", "python3.12", "python3", "python"):
        checkout.program(name, TOO_NEW)
    failed = checkout.make("setup")
    assert failed.returncode != 0
    assert "no Python 3.11 or 3.12" in failed.stderr
    assert "make setup PYTHON=" in failed.stderr
    assert not (checkout.root / ".venv").exists()


def test_the_next_python_is_tried_when_a_shim_has_no_interpreter(checkout: Checkout) -> None:
    checkout.program("python3.11", TOO_NEW)
    assert checkout.make("setup").returncode == 0
    assert checkout.calls[0].startswith("-c")


def test_a_full_disk_is_an_error_before_anything_is_written(checkout: Checkout) -> None:
    checkout.program("df", LITTLE_DISK)
    failed = checkout.make("setup")
    assert failed.returncode != 0
    assert "123 MB free" in failed.stderr
    assert not (checkout.root / ".venv").exists()


def test_help_lists_every_public_target(checkout: Checkout) -> None:
    listed = {
        line.split()[1]
        for line in checkout.make("help").stdout.splitlines()
        if line.startswith("  make ")
    }
    assert {
        "setup",
        "demo",
        "up",
        "test",
        "check",
        "soak",
        "bench",
        "images",
        "k8s",
        "clean",
        "help",
    } <= listed


@pytest.mark.parametrize("fails_at", [None, 2])
def test_repeated_runs_are_counted_and_one_failure_fails_all(
    checkout: Checkout, fails_at: int | None
) -> None:
    checkout.program(
        "make",
        '#!/bin/bash\necho "$*" >> "$CALLS"\necho "== 7 passed in 1s =="\n'
        f'[ "$(wc -l < "$CALLS")" -ne {fails_at or 0} ]\n',
    )
    done = subprocess.run(
        [".ci/repeat"],
        cwd=checkout.root,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{checkout.programs}:/usr/bin:/bin",
            "CALLS": str(checkout.calls_file),
            "RUNS": "3",
            "LOADED": "1",
        },
        timeout=60,
    )
    runs = done.stdout.splitlines()
    assert checkout.calls == ["test"] * 3
    assert [" under load: " in run for run in runs] == [True, False, False, False]
    assert [number for number, run in enumerate(runs, 1) if ": FAILED in " in run] == (
        [fails_at] if fails_at else []
    )
    assert all(run.endswith("7 passed in 1s ") for run in runs[:3])
    assert (done.returncode == 0) == (fails_at is None)


@pytest.mark.parametrize("present", [True, False])
def test_ci_sets_reference_data_only_if_present(checkout: Checkout, present: bool) -> None:
    checkout.program("make", '#!/bin/bash\necho "$* with ${REFERENCE_DATA:-none}"\n')
    shared = checkout.root.parent / "shared"
    if present:
        shared.mkdir()
    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=checkout.root,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{checkout.programs}:/usr/bin:/bin", "CI": "true"},
        timeout=60,
    )
    expected = shared if present else "none"
    assert done.stdout == f"system check test demo with {expected}\n"


def test_missing_packages_are_listed_if_they_cannot_be_installed(checkout: Checkout) -> None:
    checkout.program("dpkg-query", "#!/bin/bash\nexit 1\n")
    checkout.program("id", "#!/bin/bash\necho 1000\n")
    done = checkout.make("system")
    assert done.returncode == 0
    assert "continuing without chromium libgl1" in done.stderr
    assert "prometheus" in done.stderr


@pytest.mark.parametrize(
    ("step", "variables", "message"),
    [
        ("promote", {}, "set MODEL"),
        ("promote", {"MODEL": "compact_x4"}, "SHARPLINE_MLFLOW_URI"),
        ("promote", {"MODEL": "compact_x4", "SHARPLINE_MLFLOW_URI": "http://x"}, "EVIDENCE"),
        ("gate", {"MODEL": "compact_x4", "SHARPLINE_MLFLOW_URI": "http://x"}, "ON must name"),
    ],
)
def test_promotion_job_checks_its_own_preconditions(
    checkout: Checkout, step: str, variables: dict[str, str], message: str
) -> None:
    failed = checkout.make(step, **variables)
    assert failed.returncode != 0
    assert message in failed.stderr
    assert not any("gate" in call or "promote" in call for call in checkout.calls)
