"""Fixtures of the serving tests: model folders, pictures, numpy backends and S3 servers."""

import contextlib
import functools
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid

import boto3
import httpx
import numpy as np
import pytest

from superres.common.files import write_json
from superres.image.codecs import Picture, encode
from superres.model.bundle import write_bundle


@pytest.fixture(scope="session")
def repeated():
    """The output of the tiny bundle's network: each pixel repeated, `levels` brighter."""

    def answer(rgb_hwc, scale=2, levels=0):
        large = rgb_hwc.repeat(scale, axis=0).repeat(scale, axis=1).astype(int)
        return np.clip(large + levels, 0, np.iinfo(rgb_hwc.dtype).max).astype(rgb_hwc.dtype)

    return answer


@pytest.fixture(scope="session")
def noise_png():
    """Encoded random pictures of a given size: `noise_png(height, width, seed=0)`."""

    def make(height, width, seed=0):
        rgb_hwc = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        return encode(Picture(rgb_hwc=rgb_hwc), "png")

    return make


class Clock:
    """A monotonic clock that a test sets."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture(scope="session")
def new_clock():
    """Makes clocks, for the examples of a property."""
    return Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def models_folder(tmp_path, tiny_bundle):
    """A folder without an index that holds the tiny x2 model."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copytree(tiny_bundle().root, folder / "compact_x2")
    return folder


class ModelFolder:
    """A folder as `sharpline models follow` writes it: bundles by id and an index."""

    def __init__(self, root):
        self.root = root
        self.index = {}

    def add(self, bundle):
        """Put a bundle into the store."""
        shutil.copytree(bundle.root, self.root / "by-sha" / bundle.id, dirs_exist_ok=True)
        return bundle.id

    def serve(self, name, bundle_id, version):
        """Make a bundle the champion, replacing the index as a whole."""
        before = self.index.get(name, {"champion": None, "versions": {}})
        self.index[name] = {
            "champion": bundle_id,
            "previous": before["champion"],
            "canary": None,
            "canary_percent": 0,
            "shadow": None,
            "versions": {**before["versions"], bundle_id: str(version)},
        }
        write_json(self.root / "index.json", self.index)


@pytest.fixture
def followed_folder(tmp_path):
    root = tmp_path / "followed"
    root.mkdir()
    return ModelFolder(root)


@pytest.fixture
def with_info(tmp_path):
    """The same bundle with another description: `with_info(bundle, changes)`."""

    def rewrite(bundle, **changes):
        described = json.loads((bundle.root / "bundle.json").read_text())
        info = type(bundle.info).model_validate({**described, **changes})
        golden_input, golden_output = bundle.golden()
        return write_bundle(
            tmp_path / "rewritten" / info.name,
            info,
            bundle.weights(),
            golden_input,
            golden_output,
            "# rewritten\n",
        )

    return rewrite


class NumpyBackend:
    """A backend without a network: repeats pixels; can block at `gate` or fail on `poison`."""

    name, device, precision = "numpy", "cpu", "fp32"
    any_shape = False

    def __init__(self, bundle):
        self.scale = bundle.info.scale
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()  # set once a batch waits for `gate`
        self.batches = []
        self.threads = set()
        self.poison = None
        self.closed = False

    def forward(self, tiles_bhwc):
        if not self.gate.is_set():
            self.held.set()
            self.gate.wait(timeout=60)
        self.threads.add(threading.current_thread().name)
        self.batches.append(tiles_bhwc.shape)
        if self.poison is not None and (tiles_bhwc == self.poison).all(axis=(1, 2, 3)).any():
            raise RuntimeError("the device choked")
        return tiles_bhwc.repeat(self.scale, axis=1).repeat(self.scale, axis=2)

    def warm_up(self, shapes_hw):
        for height, width in shapes_hw:
            self.forward(np.zeros((1, height, width, 3), np.uint8))

    def close(self):
        self.closed = True


@pytest.fixture
def numpy_backends():
    """A loader for `create_app` that keeps the backends it made in `made`."""

    class Loader:
        def __init__(self):
            self.made = []

        def __call__(self, bundle, device):
            self.made.append(NumpyBackend(bundle))
            return self.made[-1]

    return Loader()


@pytest.fixture(scope="session")
def server(session_picture_server, tiny_bundle, tmp_path_factory):
    """One server with an x2 and an x4 model, for tests that do not change its state."""
    folder = tmp_path_factory.mktemp("models")
    for name, scale in (("compact_x2", 2), ("compact_x4", 4)):
        shutil.copytree(tiny_bundle(name=name, scale=scale).root, folder / name)
    running = session_picture_server(folder)
    running.wait_for(lambda: len(running.services.pictures.models.champions) == 2)
    return running


class S3:
    """An S3-compatible server in its own process; `bucket()` makes a new bucket."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                return httpx.get(self.endpoint)
            except httpx.TransportError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    pytest.fail("the S3 server did not start")
                time.sleep(0.05)

    @functools.cached_property
    def client(self):
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1")

    def bucket(self, *, versions=False):
        name = f"pictures-{uuid.uuid4().hex[:8]}"
        self.client.create_bucket(Bucket=name)
        if versions:
            kept = {"Status": "Enabled"}
            self.client.put_bucket_versioning(Bucket=name, VersioningConfiguration=kept)
        return name

    def objects(self, bucket):
        """The objects of a bucket, including unfinished multipart uploads: {key: bytes}."""
        found = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        held = {}
        for key in [each["Key"] for each in found]:
            with contextlib.suppress(self.client.exceptions.NoSuchKey):  # deleted just now
                held[key] = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        parts = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return {**held, **{f"{each['Key']} (unfinished)": b"" for each in parts}}

    def stop(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def s3_servers():
    """Makes S3-compatible servers."""
    made = []

    def make():
        made.append(S3())
        made[-1].wait()
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "tests-secret")
        yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def s3(s3_servers):
    """One S3-compatible server that no test stops."""
    return s3_servers()
