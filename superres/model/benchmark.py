"""Benchmarks of models on this machine, by backend and precision."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from superres.common.console import say
from superres.image.codecs import Picture
from superres.model.backends import BackendUnavailable, load_backend
from superres.model.bundle import Bundle
from superres.model.upscaler import Upscaler

CONFIGURATIONS = (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """One model on one backend: median seconds per picture, megapixels of output per second."""

    model: str
    backend: str
    precision: str
    device: str
    seconds: float
    megapixels_per_second: float


def benchmark_bundle(
    bundle: Bundle, picture: Picture, runs: int, device: str = "auto"
) -> Iterator[BenchmarkResult]:
    """Benchmark one bundle on every backend and precision that is available.

    The picture is cut, run and joined as in serving. Unavailable backends are logged and skipped.
    """
    for name, precision in CONFIGURATIONS:
        try:
            backend = load_backend(bundle, backend=name, device=device, precision=precision)
        except BackendUnavailable as error:
            say(f"bench: {bundle.info.name} on {name} {precision} left out: {error}")
            continue
        seconds = median_seconds(partial(Upscaler(bundle, backend).upscale, picture), runs)
        output_megapixels = picture.pixels * bundle.info.scale**2 / 1e6
        yield BenchmarkResult(
            model=bundle.info.name,
            backend=name,
            precision=precision,
            device=backend.device,
            seconds=round(seconds, 4),
            megapixels_per_second=round(output_megapixels / seconds, 3),
        )
        backend.close()


def median_seconds(work: Callable[[], object], runs: int) -> float:
    """Median wall time of `work()`, after a warm-up run."""
    work()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def noise_picture(width: int, height: int) -> Picture:
    """A picture of noise; a network's run time does not depend on the content."""
    rgb_hwc = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(rgb_hwc=rgb_hwc)


def cpu_name() -> str:
    """The processor's model name."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
