"""Speed, memory and error of the CUDA backend for each bundle.

For every bundle and precision a full batch of its largest bucket runs eagerly (`plain`) and
optimised (`fast`: compiled blocks, no concatenations, a CUDA graph per shape), both compared with
eager float32. Then a picture of 1920x1080 is upscaled in tiles. A few minutes on one device.
The last line is the result as JSON.

    python bench/gpu/serving.py --models models
"""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from superres.common.console import emit, say
from superres.common.errors import SharplineError
from superres.image.codecs import Picture
from superres.model.backends.torch_backend import TorchBackend
from superres.model.benchmark import median_seconds
from superres.model.bundle import Bundle
from superres.model.starters import find_bundles
from superres.model.upscaler import Upscaler

BATCH = 8
RUNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SharplineError("no CUDA device is visible here")
    rows = []
    for bundle in find_bundles(arguments.models):
        for row in measured(bundle):
            say(str(row))
            rows.append(row)
    emit({"device": torch.cuda.get_device_name(), "batch": BATCH, "results": rows})


def measured(bundle: Bundle) -> Iterator[dict[str, object]]:
    """One row per precision and mode."""
    height, width = max(bundle.info.tile_buckets, key=lambda sides: sides[0] * sides[1])
    generator = np.random.default_rng(0)
    tiles = generator.integers(0, 256, (BATCH, height, width, 3), np.uint8)
    picture = Picture(rgb_hwc=generator.integers(0, 256, (1080, 1920, 3), np.uint8))
    exact = TorchBackend(bundle, device="cuda", fast=False).forward(tiles).astype(np.int16)
    megapixels = exact.shape[0] * exact.shape[1] * exact.shape[2] / 1e6
    for precision in ("fp32", "bf16", "fp16"):
        for fast in (False, True):
            torch.cuda.reset_peak_memory_stats()
            backend = TorchBackend(bundle, device="cuda", precision=precision, fast=fast)
            began = time.perf_counter()
            backend.warm_up([(height, width)])
            warm_up_seconds = time.perf_counter() - began
            seconds = median_seconds(partial(backend.forward, tiles), RUNS)
            difference = np.abs(backend.forward(tiles).astype(np.int16) - exact)
            upscaler = Upscaler(bundle, backend)
            yield {
                "model": bundle.info.name,
                "precision": precision,
                "way": "fast" if fast else "plain",
                "megapixels_per_second": round(megapixels / seconds, 1),
                "full_hd_seconds": round(
                    median_seconds(partial(upscaler.upscale, picture), RUNS), 3
                ),
                "levels_off_p999": float(np.percentile(difference, 99.9)),
                "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20),
                "warm_up_seconds": round(warm_up_seconds, 1),
            }
            backend.close()


if __name__ == "__main__":
    main()
