"""`doctor`: checks, remedies and the exit code."""

import json
import socket
from importlib import metadata

import pytest

from sharpline.local import cli, doctor
from sharpline.local.up import DEFAULT_PORTS


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def enough_resources(monkeypatch):
    """Make the memory and disk checks pass on any machine."""
    monkeypatch.setattr(doctor, "NEEDED_MEMORY_BYTES", 1)
    monkeypatch.setattr(doctor, "NEEDED_DISK_BYTES", 1)


def finding_of(state, name):
    [finding] = [finding for finding in doctor.examine(state) if finding.name == name]
    return finding


def test_a_machine_that_can_run_the_tests_is_healthy(state, enough_resources, capsys):
    assert cli.doctor(["--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ok"]
    names = {finding["name"] for finding in result["findings"]}
    assert {"Python", "apache-airflow", "cores", "memory", "disk", "GPU", "promtool"} <= names
    assert not state.exists()


def test_text_output_has_one_line_for_each_finding(state, enough_resources, capsys):
    assert cli.doctor([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok") and "Python" in line for line in lines)


def test_a_missing_package_is_reported_with_its_remedy(state, monkeypatch, capsys):
    original = metadata.version

    def version(package):
        if package == "mlflow":
            raise metadata.PackageNotFoundError
        return original(package)

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert cli.doctor([]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if " mlflow " in line]
    assert line.startswith("FAIL")
    assert "make setup" in line


def test_an_old_python_is_reported(state, monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 1))
    finding = finding_of(state, "Python")
    assert (finding.ok, finding.found) == (False, "3.10.1")


def test_too_little_memory_and_disk_are_reported(state, monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED_MEMORY_BYTES", 2**60)
    monkeypatch.setattr(doctor, "NEEDED_DISK_BYTES", 2**60)
    assert not finding_of(state, "memory").ok
    assert not finding_of(state, "disk").ok


def test_a_read_only_folder_is_reported(state, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = finding_of(state, "write access")
    assert not finding.ok
    assert "Permission denied" in finding.found


def test_a_port_in_use_is_reported_and_not_an_error(state, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(
            doctor, "DEFAULT_PORTS", type(DEFAULT_PORTS)(server=port, airflow=0, mlflow=0)
        )
        finding = finding_of(state, f"port {port}")
    assert not finding.ok
    assert not finding.needed


def test_a_missing_debian_package_is_reported_and_not_an_error(
    state, enough_resources, monkeypatch
):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    finding = finding_of(state, "alertmanager")
    assert "apt-get install prometheus-alertmanager" in str(finding)
    assert cli.doctor(["--json"]) == 0
