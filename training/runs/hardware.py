"""What a training takes of its machine: processor, memory, and the GPU where there is one."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

EVERY_SECONDS = 10.0
MEBIBYTE = 1024**2
STATM = Path("/proc/self/statm")


class MachineMetrics:
    """Figures of this process, at most every EVERY_SECONDS; `clock` counts seconds.

    system/cpu_percent: 100 is one core busy all the time, with the processes that it has waited
    for; system/rss_megabytes; system/gpu_memory_megabytes and, where NVML answers,
    system/gpu_percent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked: float | None = None
        self._processor_seconds = _processor_seconds()
        self._started = clock()

    def __call__(self) -> dict[str, float]:
        """The figures, or none when the last ones are young."""
        now = self._clock()
        if self._looked is not None and now - self._looked < EVERY_SECONDS:
            return {}
        since = self._started if self._looked is None else self._looked
        before, self._processor_seconds = self._processor_seconds, _processor_seconds()
        self._looked = now
        figures = {"system/rss_megabytes": _resident_bytes() / MEBIBYTE}
        if now > since:
            figures["system/cpu_percent"] = 100 * (self._processor_seconds - before) / (now - since)
        return figures | _gpu()


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _resident_bytes() -> float:
    """From /proc where there is one; elsewhere no figure."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return float("nan")


def _gpu() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    figures = {"system/gpu_memory_megabytes": torch.cuda.memory_reserved() / MEBIBYTE}
    # NVML's Python module is no part of torch.
    with contextlib.suppress(ModuleNotFoundError, RuntimeError):
        figures["system/gpu_percent"] = float(torch.cuda.utilization())
    return figures
