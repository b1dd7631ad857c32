"""What an answer costs, challenger and champion side by side in one run.

Seconds are medians of turns taken one after the other, so whatever else the machine does hits both
alike. Memory is the most that the first answer of a freshly loaded model adds, beside its weights:
what is allocated then is kept or asked for again with every later answer.
"""

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from superres.image.codecs import Picture
from superres.model.bundle import WEIGHTS_FILE
from superres.model.upscaler import Upscaler

SIDE = 96  # LR pixels of the picture that is timed: a few of the smallest tiles

Clock = Callable[[], float]
# Runs something and says how many bytes it added at most, None where nobody can tell.
MemoryProbe = Callable[[Callable[[], object]], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one model: median seconds for the same picture, and bytes at most (None: not known)."""

    seconds: float
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCosts:
    """Of both, on one picture of `pixels`, over `rounds` turns each."""

    pixels: int
    rounds: int
    challenger: Cost
    champion: Cost | None


class Meter:
    """Measures costs by a clock and a memory probe."""

    def __init__(self, clock: Clock = time.perf_counter, memory: MemoryProbe | None = None) -> None:
        self._clock = clock
        self._memory = memory

    def measure(
        self, challenger: Upscaler, champion: Upscaler | None, lr: Picture, rounds: int
    ) -> MeasuredCosts:
        """Run both in turns on the picture's upper left corner; neither may have run before."""
        picture = Picture(rgb_hwc=lr.rgb_hwc[:SIDE, :SIDE])
        # The champion goes first: what the runtime loads once must not count against the newcomer.
        models = [model for model in (champion, challenger) if model is not None]
        memory = {id(model): self._memory_of(model, picture) for model in models}
        taken: dict[int, list[float]] = {id(model): [] for model in models}
        for _ in range(rounds):
            for model in models:
                began = self._clock()
                model.upscale(picture)
                taken[id(model)].append(self._clock() - began)

        def cost(model: Upscaler) -> Cost:
            return Cost(seconds=median(taken[id(model)]), memory_bytes=memory[id(model)])

        return MeasuredCosts(
            pixels=picture.pixels,
            rounds=rounds,
            challenger=cost(challenger),
            champion=None if champion is None else cost(champion),
        )

    def _memory_of(self, model: Upscaler, picture: Picture) -> int | None:
        """The first answer, which compiles and allocates and is not timed."""
        probe = self._memory or _probe_of(model)
        added = probe(lambda: model.upscale(picture))
        weights = (model.bundle.root / WEIGHTS_FILE).stat().st_size
        return None if added is None else added + weights


def _probe_of(model: Upscaler) -> MemoryProbe:
    return device_memory if model.backend.device.startswith("cuda") else process_memory


def device_memory(run: Callable[[], object]) -> int | None:
    """By the allocator of the CUDA device."""
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return max(0, torch.cuda.max_memory_allocated() - before)


def process_memory(run: Callable[[], object]) -> int | None:
    """By the kernel's high-water mark of this process, which Linux lets its owner reset."""
    with suppress(OSError, AttributeError):
        # Give freed memory back first, or the run would reuse it and seem to need none.
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
