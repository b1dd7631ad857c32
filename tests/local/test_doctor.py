"""The doctor: what is there, what lacks, what to do; exit 1 only where something needed lacks."""

import json
import socket
from importlib import metadata

import pytest

from sharpline.local import cli, doctor
from sharpline.local.up import USUAL


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def roomy(monkeypatch):
    """Whatever else this machine does, its memory and disk suffice."""
    monkeypatch.setattr(doctor, "NEEDED_MEMORY_BYTES", 1)
    monkeypatch.setattr(doctor, "NEEDED_DISK_BYTES", 1)


def found(state, name):
    [finding] = [finding for finding in doctor.examine(state) if finding.name == name]
    return finding


def test_a_machine_that_can_run_the_tests_is_healthy(state, roomy, capsys):
    assert cli.doctor(["--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["ok"]
    names = {finding["name"] for finding in answer["findings"]}
    assert {"Python", "apache-airflow", "cores", "memory", "disk", "GPU", "promtool"} <= names
    assert not state.exists()


def test_people_get_one_line_each(state, roomy, capsys):
    assert cli.doctor([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok") and "Python" in line for line in lines)


def test_a_missing_package_is_lacking_and_says_how_to_get_it(state, monkeypatch, capsys):
    real = metadata.version

    def version(package):
        if package == "mlflow":
            raise metadata.PackageNotFoundError
        return real(package)

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert cli.doctor([]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if " mlflow " in line]
    assert line.startswith("LACKS")
    assert "make setup" in line


def test_an_old_python_lacks(state, monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 1))
    finding = found(state, "Python")
    assert (finding.ok, finding.found) == (False, "3.10.1")


def test_too_little_memory_and_disk_lack(state, monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED_MEMORY_BYTES", 2**60)
    monkeypatch.setattr(doctor, "NEEDED_DISK_BYTES", 2**60)
    assert not found(state, "memory").ok
    assert not found(state, "disk").ok


def test_a_folder_that_cannot_be_written_lacks(state, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = found(state, "write access")
    assert not finding.ok
    assert "Permission denied" in finding.found


def test_a_port_in_use_is_said_and_is_no_obstacle(state, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "USUAL", type(USUAL)(server=port, airflow=0, mlflow=0))
        finding = found(state, f"port {port}")
    assert not finding.ok
    assert not finding.needed


def test_a_missing_debian_package_is_named_and_is_no_obstacle(state, roomy, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    finding = found(state, "alertmanager")
    assert "apt-get install prometheus-alertmanager" in str(finding)
    assert cli.doctor(["--json"]) == 0
