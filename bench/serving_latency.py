"""480x270 -> 1920x1080 PNG through HTTP: this server beside a plain FastAPI service, in one run.

Requests alternate between the two servers, so that whatever else the machine does hits both alike.
The last line is the result as JSON: medians in seconds, pictures per minute with several clients,
their ratios, and how far the two answers are apart.

    python bench/serving_latency.py --models models --model compact_x4
"""

import argparse
import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from superres.console import emit, say
from superres.errors import SharplineError
from superres.image import Picture, encode
from superres.resize import imresize

HEIGHT, WIDTH = 270, 480
START_SECONDS = 120.0
SHARPLINE = "from sharpline.cli import main; main()"

Ask = Callable[[bytes], bytes]


def main() -> None:
    arguments = _arguments()
    pictures = [_photo_like(seed) for seed in range(4)]
    bundle = arguments.models / arguments.model
    with (
        _server(["-c", SHARPLINE, "serve", "--models", str(arguments.models)]) as ours_url,
        _server([str(Path(__file__).with_name("plain_service.py")), str(bundle)]) as plain_url,
        httpx.Client(timeout=300) as client,
    ):
        ours = _asking(client, f"{ours_url}/v1/enhance?model={arguments.model}&format=png")
        plain = _asking(client, f"{plain_url}/enhance")
        difference = _levels_apart(ours(pictures[0]), plain(pictures[0]))
        ours_seconds, plain_seconds = _alternating(ours, plain, pictures, arguments.rounds)
        rates = [
            _per_minute(ask, pictures, arguments.clients, arguments.rounds) for ask in (ours, plain)
        ]
    emit(
        {
            "input": f"{WIDTH}x{HEIGHT}",
            "model": arguments.model,
            "rounds": arguments.rounds,
            "p50_seconds": round(ours_seconds, 4),
            "plain_p50_seconds": round(plain_seconds, 4),
            "times_faster_alone": round(plain_seconds / ours_seconds, 2),
            "clients": arguments.clients,
            "pictures_per_minute": round(rates[0], 1),
            "plain_pictures_per_minute": round(rates[1], 1),
            "times_more_pictures": round(rates[0] / rates[1], 2),
            **difference,
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    parser.add_argument("--model", default="compact_x4", help="a bundle in it")
    parser.add_argument("--rounds", type=int, default=9, help="requests to each server")
    parser.add_argument("--clients", type=int, default=8, help="for pictures per minute")
    return parser.parse_args()


@contextmanager
def _server(command: list[str]) -> Iterator[str]:
    """A server process on a free port; yields its address once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, *command, "--port", str(port)], env=os.environ)
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(process, url)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            raise SharplineError(f"{' '.join(map(str, process.args))} ended at once")
        time.sleep(0.1)
    raise SharplineError(f"{url} was not ready after {START_SECONDS:.0f} seconds")


def _asking(client: httpx.Client, url: str) -> Ask:
    def ask(data: bytes) -> bytes:
        answer = client.post(url, content=data)
        answer.raise_for_status()
        return answer.content

    return ask


def _alternating(ours: Ask, plain: Ask, pictures: list[bytes], rounds: int) -> tuple[float, float]:
    """Median seconds of each, asked in turns after one round that is not counted."""
    seconds: dict[Ask, list[float]] = {ours: [], plain: []}
    for number in range(rounds + 1):
        for ask, taken in seconds.items():
            began = time.perf_counter()
            ask(pictures[number % len(pictures)])
            if number:
                taken.append(time.perf_counter() - began)
        say(f"round {number}: ours {seconds[ours][-1:]} s, plain {seconds[plain][-1:]} s")
    return statistics.median(seconds[ours]), statistics.median(seconds[plain])


def _per_minute(ask: Ask, pictures: list[bytes], clients: int, rounds: int) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        count = len(list(pool.map(ask, pictures * max(1, rounds // 2))))
    return 60 * count / (time.perf_counter() - began)


def _levels_apart(first: bytes, second: bytes) -> dict[str, float]:
    """How far two answers are apart, in grey levels."""
    pair = [
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)
        for data in (first, second)
    ]
    off = np.abs(pair[0] - pair[1])
    return {
        "levels_apart_p999": float(np.percentile(off, 99.9)),
        "levels_apart_max": float(off.max()),
    }


def _photo_like(seed: int) -> bytes:
    """A picture with detail at every size, so that PNG has the work it has with photographs."""
    generator = np.random.default_rng(seed)
    total = np.full((HEIGHT, WIDTH, 3), 128.0)
    for cells in (4, 16, 64, 200):
        coarse = generator.normal(0, 60 / np.sqrt(cells), (cells, cells, 3))
        total += imresize(coarse, size=(HEIGHT, WIDTH))
    return encode(Picture(rgb_hwc=np.clip(total, 0, 255).astype(np.uint8)), "png")


if __name__ == "__main__":
    main()
