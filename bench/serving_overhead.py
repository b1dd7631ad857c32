"""What serving adds to the network: the scheduler's time for a request, and encoding 33 megapixels.

The scheduler and an engine's thread deal out the tiles of many requests to a network that does
nothing; what remains is theirs. Encoding runs stripe by stripe as in an answer. Both in
core-seconds. The last line is the result as JSON.

    python bench/serving_overhead.py
"""

import argparse
import threading
import time

import numpy as np
from serving_common import photo_like

from serving.batching.engine import Engine
from serving.batching.scheduler import Scheduler
from serving.batching.tiles import BatchKey, BatchLimits
from superres.common.console import emit
from superres.image.codecs import Picture, decode, encode
from superres.image.strips import StripEncoder, enlarged_frame, enlarged_strip

HEIGHT, WIDTH, SCALE = 1080, 1920, 4
STRIP_ROWS = 136  # of the low-resolution picture: a row of tiles of the starters' bundles


class Nothing:
    """A network that takes no time."""

    name = "nothing"

    def forward(self, tiles_bhwc, device_index):
        return tiles_bhwc

    def forward_in_parts(self, tile_hwc, device_index):
        return tile_hwc


class NoObserver:
    def batch_done(self, model, *, fill_ratio, pixels, seconds):
        pass

    def batch_failed(self, model):
        pass

    def memory_ran_out(self, model):
        pass


class Counter:
    """A request's receiver; says when all its tiles are there."""

    def __init__(self, tiles: int) -> None:
        self._missing = tiles
        self.complete = threading.Event()

    def done(self, index, tile):
        self._missing -= 1
        if not self._missing:
            self.complete.set()

    def failed(self, error):
        raise error


def main() -> None:
    arguments = _arguments()
    emit(
        {
            "requests": arguments.requests,
            "tiles_each": arguments.tiles,
            "at_once": arguments.at_once,
            "scheduler_ms_per_request": round(1000 * scheduler_seconds(arguments), 3),
            "png_33_megapixels_core_seconds": round(png_seconds(), 3),
        }
    )


def scheduler_seconds(arguments: argparse.Namespace) -> float:
    """Core-seconds of one request, `at_once` of them being in the queue together."""
    scheduler = Scheduler(BatchLimits())
    engine = Engine(scheduler, NoObserver())
    batch_key = BatchKey(model=Nothing(), height=64, width=64, dtype="uint8")
    tile = np.zeros((64, 64, 3), np.uint8)
    engine.start()
    began = time.process_time()
    for first in range(0, arguments.requests, arguments.at_once):
        group = []
        for number in range(first, first + arguments.at_once):
            receiver = Counter(arguments.tiles)
            request = scheduler.open(
                batch_key, deadline_seconds=number, receiver=receiver, client=f"client {number % 8}"
            )
            scheduler.put(request, [(index, tile) for index in range(arguments.tiles)])
            group.append((request, receiver))
        for request, receiver in group:
            receiver.complete.wait()
            scheduler.close(request)
    seconds = time.process_time() - began
    engine.stop()
    return seconds / arguments.requests


def png_seconds() -> float:
    """Core-seconds of a 7680x4320 PNG, the least of three."""
    lr = decode(photo_like(0, HEIGHT, WIDTH))
    sr_hwc = lr.rgb_hwc.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    grain = np.random.default_rng(0).integers(0, 3, sr_hwc.shape, np.uint8)
    sr_hwc = np.minimum(sr_hwc, 252) + grain  # repeated pixels alone would pack too well
    taken = []
    for _ in range(3):
        began = time.process_time()
        encoder = StripEncoder(enlarged_frame(lr, SCALE), "png")
        pieces = [
            encoder.add(
                enlarged_strip(lr, sr_hwc[top * SCALE : (top + STRIP_ROWS) * SCALE], top, SCALE)
            )
            for top in range(0, HEIGHT, STRIP_ROWS)
        ]
        data = b"".join([*pieces, encoder.end()])
        taken.append(time.process_time() - began)
    assert len(data) > len(encode(Picture(rgb_hwc=lr.rgb_hwc), "png"))
    return min(taken)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=960)
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()
