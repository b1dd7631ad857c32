import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPConnection
from typing import NamedTuple

import httpx
import pytest

from serving.cli.serve import listen, serve
from superres.common.errors import SharplineError, UsageError

FORBIDDEN = {
    "basicsr",
    "mlflow",
    "airflow",
    "torchvision",
    "timm",
    "spandrel",
    "skimage",
    "training",
    "release",
    "pipelines",
}


# So that no request is refused or timed out on a slow machine.
LONG_TIMEOUTS = {
    "SHARPLINE_QUEUE__MAX_WAIT_SECONDS": "1e6",
    "SHARPLINE_LIMITS__DEADLINE_SECONDS": "1e6",
    "SHARPLINE_LIMITS__BODY_SECONDS": "600",
    "SHARPLINE_DRAIN__MAX_SECONDS": "600",
}

# The command; at exit it prints the packages that it imported.
SCRIPT = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted({name.split(".")[0] for name in sys.modules}))))
from sharpline.cli import main
main()
"""


class ServerRun(NamedTuple):
    """What one process of `sharpline serve` printed, responded and imported."""

    address: dict
    statuses: list
    late_status: int
    exit_code: int
    modules: list
    errors: str
    headers: httpx.Headers


@pytest.fixture(scope="module")
def process():
    """A factory of `sharpline serve` processes on a free port, with the address they print."""
    started = []

    def start(folder):
        command = [
            sys.executable,
            "-c",
            SCRIPT,
            "serve",
            "--port",
            "0",
            "--json",
            "--models",
            str(folder),
        ]
        running = subprocess.Popen(
            command,
            env={**os.environ, **LONG_TIMEOUTS},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(running)
        line = running.stdout.readline()
        if not line:
            pytest.fail(running.stderr.read())
        return running, json.loads(line)

    yield start
    for running in started:
        running.kill()
        running.communicate()


def await_ready(url):
    def is_ready():
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    await_true(is_ready)


def await_true(condition):
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("timed out after two minutes of waiting for the server")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server_run(process, tiny_bundle, noise_png, tmp_path_factory):
    """One run of the command: SIGTERM arrives while eight pictures are being sent to it."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_bundle().root, folder / "compact_x2")
    running, address = process(folder)
    await_ready(address["url"])
    headers = httpx.get(f"{address['url']}/livez").headers
    data = noise_png(400, 400)
    half = len(data) // 2
    admitted = [half_sent(address["port"], data[:half], len(data)) for _ in range(8)]
    await_true(lambda: "in_flight 8.0" in httpx.get(f"{address['url']}/metrics").text)
    running.send_signal(signal.SIGTERM)
    await_true(lambda: httpx.get(f"{address['url']}/readyz").status_code == 503)
    late_status = httpx.post(f"{address['url']}/v1/enhance", content=data).status_code
    for connection in admitted:
        connection.send(data[half:])
    statuses = [status_of(connection) for connection in admitted]
    output, errors = running.communicate(timeout=120)
    modules = json.loads(output)
    return ServerRun(address, statuses, late_status, running.returncode, modules, errors, headers)


def status_of(connection):
    with closing(connection):
        return connection.getresponse().status


def half_sent(port, first, length):
    """A connection with a partly sent picture, which therefore has its slot."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("POST", "/v1/enhance")
    connection.putheader("Content-Length", str(length))
    connection.endheaders(first)
    return connection


def test_command_prints_its_bound_address(server_run):
    assert server_run.address["port"] > 0
    assert server_run.address["url"] == f"http://127.0.0.1:{server_run.address['port']}"
    assert server_run.address["url"] in server_run.errors


def test_responses_do_not_name_the_server_software(server_run):
    assert server_run.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in server_run.headers


def test_sigterm_lets_every_admitted_picture_be_answered(server_run):
    """Admitted requests get a picture; later ones get 503."""
    assert server_run.statuses == [200] * 8
    assert server_run.late_status == 503
    assert server_run.exit_code == 0, server_run.errors
    assert server_run.errors.strip().endswith("stopped")
    assert "Traceback" not in server_run.errors
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server_run.address["port"]), timeout=5)


def test_server_imports_nothing_of_training_or_the_registry(server_run):
    loaded = set(server_run.modules)
    assert {"serving", "superres"} <= loaded
    assert not loaded & FORBIDDEN


def test_busy_port_is_reported(models_folder):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        plain = rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use; .*--port"
        with pytest.raises(SharplineError, match=plain):
            serve(["--port", str(port), "--models", str(models_folder)])


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "Cannot assign"), ("host.invalid", "cannot listen on host.invalid:0: ")],
)
def test_address_that_cannot_be_bound_is_reported(host, reason):
    with pytest.raises(SharplineError, match=reason):
        listen(host, 0)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(SharplineError, match=r"no models folder .*--models"):
        serve(["--port", "0", "--models", str(tmp_path / "nothing")])


def test_folder_without_models_is_refused(tmp_path):
    (tmp_path / "holiday.txt").write_text("no model")
    with pytest.raises(SharplineError, match="holds no model"):
        serve(["--port", "0", "--models", str(tmp_path)])


def test_folder_of_broken_models_is_refused_with_each_reason(models_folder, tmp_path):
    shutil.copytree(models_folder / "compact_x2", models_folder / "other")
    (models_folder / "other" / "bundle.json").write_text("{}")
    (models_folder / "compact_x2" / "weights.safetensors").unlink()
    with pytest.raises(SharplineError) as refused:
        serve(["--port", "0", "--models", str(models_folder)])
    assert "compact_x2: " in str(refused.value)
    assert "weights.safetensors is missing" in str(refused.value)
    assert "other: " in str(refused.value)


def test_broken_index_is_refused(tmp_path):
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(SharplineError, match=r"index\.json cannot be read"):
        serve(["--port", "0", "--models", str(tmp_path)])


def test_unknown_setting_is_refused(models_folder, monkeypatch):
    monkeypatch.setenv("SHARPLINE_PROT", "9000")
    with pytest.raises(UsageError, match=r"did you mean SHARPLINE_PORT\?"):
        serve(["--models", str(models_folder)])


@pytest.mark.parametrize("arguments", [["--prot", "1"], ["--port", "http"], ["models/"]])
def test_wrong_arguments_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        serve(arguments)
    assert left.value.code == 2
    assert "usage: sharpline serve" in capsys.readouterr().err
