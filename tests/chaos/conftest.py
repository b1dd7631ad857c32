"""Servers in their own processes, with a fake device that tests can make fail."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sharpline.local.processes import responds
from superres.image.codecs import Picture, encode

FAKE_SERVER = Path(__file__).with_name("fake_server.py")


@pytest.fixture(scope="session")
def models(tiny_bundle, tmp_path_factory):
    """A folder with the tiny x2 model."""
    folder = tmp_path_factory.mktemp("chaos") / "models"
    folder.mkdir()
    shutil.copytree(tiny_bundle().root, folder / "compact_x2")
    return folder


@pytest.fixture
def fake_server(models, tmp_path, await_true):
    """Starts a server and waits for it to be ready: `fake_server(**environment)` -> (process, url).

    They log to the file `process.log`: a pipe that is not read would fill and block them.
    """
    started = []

    def start(**environment):
        log = tmp_path / f"server-{len(started)}.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, str(FAKE_SERVER), "--models", str(models)],
                env={
                    **os.environ,
                    "PYTHONPATH": str(FAKE_SERVER.parents[2]),
                    # without torch, whose import and device query take seconds
                    "SHARPLINE_MODELS__BACKEND": "openvino",
                    **environment,
                },
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        process.log = log
        started.append(process)
        line = process.stdout.readline()
        if not line:
            pytest.fail(log.read_text())
        url = json.loads(line)["url"]
        await_true(lambda: responds(f"{url}/readyz"), "the server being ready")
        return process, url

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def flat_png():
    """An encoded picture of one value: `flat_png(value, side=30)`."""

    def make(value, side=30):
        return encode(Picture(rgb_hwc=np.full((side, side, 3), value, np.uint8)), "png")

    return make
