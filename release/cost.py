"""Inference time and memory of challenger and champion, measured in one run.

Seconds are medians over alternating rounds, so other load on the machine affects both models
alike. Memory is the peak that the first inference of a freshly loaded model adds, plus its
weights: later inferences reuse or allocate the same amount.
"""

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from superres.common.console import progress_log
from superres.image.codecs import Picture
from superres.model.bundle import WEIGHTS_FILE
from superres.model.upscaler import Upscaler

SIDE = 96  # LR pixels a side of the timed picture: a few of the smallest tiles

Clock = Callable[[], float]
# Runs a function and returns the peak bytes that it added, None where that cannot be measured.
MemoryProbe = Callable[[Callable[[], object]], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Median seconds and peak bytes of one model on one picture (None: not known)."""

    seconds: float
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCosts:
    """Costs of both models on one picture of `pixels`, over `rounds` rounds."""

    pixels: int
    rounds: int
    challenger: Cost
    champion: Cost | None


class Meter:
    """Measures costs with a clock and a memory probe."""

    def __init__(self, clock: Clock = time.perf_counter, memory: MemoryProbe | None = None) -> None:
        self._clock = clock
        self._memory = memory

    def measure(
        self, challenger: Upscaler, champion: Upscaler | None, lr: Picture, rounds: int
    ) -> MeasuredCosts:
        """Alternate both models on the picture's upper left corner; neither may have run before."""
        picture = Picture(rgb_hwc=lr.rgb_hwc[:SIDE, :SIDE])
        # The champion runs first: what the runtime loads once must not count for the challenger.
        models = [model for model in (champion, challenger) if model is not None]
        memory = {id(model): self._memory_of(model, picture) for model in models}
        seconds: dict[int, list[float]] = {id(model): [] for model in models}
        log = progress_log("measuring speed")  # no progress bar: it would draw meanwhile
        for done in range(1, rounds + 1):
            for model in models:
                began = self._clock()
                model.upscale(picture)
                seconds[id(model)].append(self._clock() - began)
            log(done, rounds)

        def cost(model: Upscaler) -> Cost:
            return Cost(seconds=median(seconds[id(model)]), memory_bytes=memory[id(model)])

        return MeasuredCosts(
            pixels=picture.pixels,
            rounds=rounds,
            challenger=cost(challenger),
            champion=None if champion is None else cost(champion),
        )

    def _memory_of(self, model: Upscaler, picture: Picture) -> int | None:
        """Peak memory of the first inference, which compiles and allocates and is not timed."""
        probe = self._memory or _probe_of(model)
        added = probe(lambda: model.upscale(picture))
        weights = (model.bundle.root / WEIGHTS_FILE).stat().st_size
        return None if added is None else added + weights


def _probe_of(model: Upscaler) -> MemoryProbe:
    return device_memory if model.backend.device.startswith("cuda") else process_memory


def device_memory(run: Callable[[], object]) -> int | None:
    """Peak bytes added, from the allocator of the CUDA device."""
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return max(0, torch.cuda.max_memory_allocated() - before)


def process_memory(run: Callable[[], object]) -> int | None:
    """Peak bytes added, from this process's resettable high-water mark in /proc (Linux)."""
    with suppress(OSError, AttributeError):
        # Return freed memory to the system first, or the run would reuse it and seem to need none.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
    except OSError:
        run()
        return None
    run()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
