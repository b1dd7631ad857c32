"""Overhead of serving: scheduling time per request, and encoding 33 megapixels as PNG.

The scheduler and an engine thread batch the tiles of many requests for a no-op network, so the
measured time is their own. Encoding runs strip by strip as in a response. Both in core-seconds.
The last line is the result as JSON.

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
from superres.image.codecs import Picture, StripEncoder, decode, encode
from superres.image.strips import enlarged_frame, enlarged_strip

HEIGHT, WIDTH, SCALE = 1080, 1920, 4
STRIP_ROWS = 136  # low-resolution rows of one row of tiles of the starter models


class NoOpModel:
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

    def out_of_memory(self, model):
        pass


class CountingReceiver:
    """Receives a request's tiles; sets `complete` when all have arrived."""

    def __init__(self, tiles: int) -> None:
        self._remaining = tiles
        self.complete = threading.Event()

    def done(self, index, tile):
        self._remaining -= 1
        if not self._remaining:
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
    """Core-seconds per request, with `at_once` requests in the queue."""
    scheduler = Scheduler(BatchLimits())
    engine = Engine(scheduler, NoObserver())
    batch_key = BatchKey(model=NoOpModel(), height=64, width=64, dtype="uint8")
    tile = np.zeros((64, 64, 3), np.uint8)
    engine.start()
    began = time.process_time()
    for first in range(0, arguments.requests, arguments.at_once):
        group = []
        for number in range(first, first + arguments.at_once):
            receiver = CountingReceiver(arguments.tiles)
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
    """Core-seconds to encode a 7680x4320 PNG, the minimum of three."""
    lr = decode(photo_like(0, HEIGHT, WIDTH))
    sr_hwc = lr.rgb_hwc.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    grain = np.random.default_rng(0).integers(0, 3, sr_hwc.shape, np.uint8)
    sr_hwc = np.minimum(sr_hwc, 252) + grain  # repeated pixels alone would compress too well
    seconds = []
    for _ in range(3):
        began = time.process_time()
        encoder = StripEncoder(enlarged_frame(lr, SCALE), "png")
        chunks = [
            encoder.add(
                enlarged_strip(lr, sr_hwc[top * SCALE : (top + STRIP_ROWS) * SCALE], top, SCALE)
            )
            for top in range(0, HEIGHT, STRIP_ROWS)
        ]
        data = b"".join([*chunks, encoder.end()])
        seconds.append(time.process_time() - began)
    assert len(data) > len(encode(Picture(rgb_hwc=lr.rgb_hwc), "png"))
    return min(seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=960)
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()
