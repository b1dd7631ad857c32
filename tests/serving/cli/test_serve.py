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


# However slow the machine is at the moment, nobody is refused or given up for it.
PATIENCE = {
    "SHARPLINE_QUEUE__MAX_WAIT_SECONDS": "1e6",
    "SHARPLINE_LIMITS__DEADLINE_SECONDS": "1e6",
    "SHARPLINE_LIMITS__BODY_SECONDS": "600",
    "SHARPLINE_DRAIN__MAX_SECONDS": "600",
}

# The command itself, which at its end tells what it imported: packages, which fit into a pipe.
SCRIPT = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted({name.split(".")[0] for name in sys.modules}))))
from sharpline.cli import main
main()
"""


class Life(NamedTuple):
    """What one process of `sharpline serve` printed, answered and imported."""

    address: dict
    statuses: list
    newcomer: int
    exit_code: int
    modules: list
    errors: str


@pytest.fixture(scope="module")
def process():
    """A maker of `sharpline serve` processes on a free port, and the address they print."""
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
            env={**os.environ, **PATIENCE},
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
            pytest.fail("waited two minutes in vain for the server")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def served(process, tiny_bundle, noise_png, tmp_path_factory):
    """One life of the command: SIGTERM comes while eight pictures are on their way to it."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_bundle().root, folder / "compact_x2")
    running, address = process(folder)
    await_ready(address["url"])
    data = noise_png(400, 400)
    half = len(data) // 2
    let_in = [half_sent(address["port"], data[:half], len(data)) for _ in range(8)]
    await_true(lambda: "in_flight 8.0" in httpx.get(f"{address['url']}/metrics").text)
    running.send_signal(signal.SIGTERM)
    await_true(lambda: httpx.get(f"{address['url']}/readyz").status_code == 503)
    newcomer = httpx.post(f"{address['url']}/v1/enhance", content=data).status_code
    for connection in let_in:
        connection.send(data[half:])
    statuses = [status_of(connection) for connection in let_in]
    output, errors = running.communicate(timeout=120)
    return Life(address, statuses, newcomer, running.returncode, json.loads(output), errors)


def status_of(connection):
    with closing(connection):
        return connection.getresponse().status


def half_sent(port, first, length):
    """A connection on which a picture has begun to be sent, and so has its place."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("POST", "/v1/enhance")
    connection.putheader("Content-Length", str(length))
    connection.endheaders(first)
    return connection


def test_command_prints_the_address_it_really_has(served):
    assert served.address["port"] > 0
    assert served.address["url"] == f"http://127.0.0.1:{served.address['port']}"
    assert served.address["url"] in served.errors


def test_sigterm_lets_every_admitted_picture_be_answered(served):
    """What was let in is answered with a picture; what came too late hears 503."""
    assert served.statuses == [200] * 8
    assert served.newcomer == 503
    assert served.exit_code == 0, served.errors
    assert served.errors.strip().endswith("stopped")
    assert "Traceback" not in served.errors
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", served.address["port"]), timeout=5)


def test_server_imports_nothing_of_training_or_the_registry(served):
    loaded = set(served.modules)
    assert {"serving", "superres"} <= loaded
    assert not loaded & FORBIDDEN


def test_busy_port_is_said_plainly(models_folder):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        plain = rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use; .*--port"
        with pytest.raises(SharplineError, match=plain):
            serve(["--port", str(port), "--models", str(models_folder)])


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "Cannot assign"), ("host.invalid", "cannot listen on host.invalid:0: ")],
)
def test_address_that_cannot_be_had_is_said_plainly(host, reason):
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
def test_wrong_words_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        serve(arguments)
    assert left.value.code == 2
    assert "usage: sharpline serve" in capsys.readouterr().err
