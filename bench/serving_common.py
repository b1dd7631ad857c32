"""Helpers of the serving benchmarks: server processes, pictures, times and memory."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import httpx
import numpy as np

from sharpline.local.processes import choose_ports, local_url, responds
from superres.common.errors import SharplineError
from superres.image.codecs import Picture, encode
from superres.image.resize import imresize

START_SECONDS = 240.0
SHARPLINE = "from sharpline.cli import main; main()"
PAGE_KB = os.sysconf("SC_PAGE_SIZE") / 1024

EnhanceFunction = Callable[[bytes], bytes]
Result = TypeVar("Result")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--models` and `--model`, the folder of bundles and the name of one."""
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    parser.add_argument("--model", default="compact_x4", help="a bundle in it")


class Server:
    """A server process on a free port."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, ready_seconds: float) -> None:
        self.process = process
        self.url = url
        self.ready_seconds = ready_seconds
        self.ready_core_seconds = self.cpu_seconds

    @property
    def rss_mb(self) -> float:
        """Current resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * PAGE_KB / 1024

    @property
    def peak_rss_mb(self) -> float:
        """Peak resident memory since the start."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """Core-seconds used so far; less noisy than wall time on a busy machine."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def measured(self, work: Callable[[], Result]) -> tuple[Result, float, float]:
        """The result of `work()`, its wall seconds and the core-seconds of this server."""
        cores, began = self.cpu_seconds, time.perf_counter()
        result = work()
        return result, time.perf_counter() - began, self.cpu_seconds - cores


@contextmanager
def ours(bundle: Path, **settings: str) -> Iterator[Server]:
    """`sharpline serve` over one bundle."""
    with TemporaryDirectory() as folder:
        (Path(folder) / bundle.name).symlink_to(bundle.resolve())
        with running(["-c", SHARPLINE, "serve", "--models", folder], settings) as server:
            yield server


@contextmanager
def plain(bundle: Path) -> Iterator[Server]:
    """The plain service over one bundle."""
    script = Path(__file__).with_name("plain_service.py")
    with running([str(script), str(bundle)], {}) as server:
        yield server


@contextmanager
def running(command: list[str], settings: Mapping[str, str]) -> Iterator[Server]:
    """A Python server process on a free port; yields once it is ready."""
    [port] = choose_ports(0)
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)], env={**os.environ, **settings}
    )
    url = local_url(port)
    try:
        await_ready(process, url)
        yield Server(process, url, time.perf_counter() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not responds(f"{url}/readyz"):
        if process.poll() is not None:
            raise SharplineError(f"{' '.join(map(str, process.args))} exited before it was ready")
        if time.monotonic() >= deadline:
            raise SharplineError(f"{url} was not ready after {START_SECONDS:.0f} seconds")
        time.sleep(0.1)


def enhance_function(client: httpx.Client, url: str) -> EnhanceFunction:
    """A function that posts a picture and returns the response body."""

    def enhance(data: bytes) -> bytes:
        response = client.post(url, content=data)
        response.raise_for_status()
        return response.content

    return enhance


def photo_like(seed: int, height: int, width: int) -> bytes:
    """A PNG with detail at every scale, so that codecs work as hard as on photographs."""
    generator = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128.0)
    for cells in (4, 16, 64, 200):
        coarse = generator.normal(0, 60 / np.sqrt(cells), (cells, cells, 3))
        total += imresize(coarse, size=(height, width))
    return encode(Picture(rgb_hwc=np.clip(total, 0, 255).astype(np.uint8)), "png")


# Heights and widths of typical uploads: thumbnails, old web pictures, small photographs.
SMALL = ((64, 64), (90, 120), (120, 160), (150, 200))
MIXED = (*SMALL, (200, 150), (240, 320), (270, 480), (360, 480))


def pictures_of(sizes: Sequence[tuple[int, int]]) -> list[bytes]:
    """A picture of each size."""
    return [photo_like(seed, *size) for seed, size in enumerate(sizes)]


def percentile(values: list[float], share: float) -> float:
    """The percentile `share`, in [0, 100]."""
    return float(np.percentile(values, share))
