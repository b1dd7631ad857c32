"""Resource usage of a training: CPU, memory, and the GPU if there is one."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

SAMPLE_EVERY_SECONDS = 10.0
MEBIBYTE = 1024**2
STATM = Path("/proc/self/statm")


class MachineMetrics:
    """Resource metrics of this process, at most every SAMPLE_EVERY_SECONDS; `clock` in seconds.

    system/cpu_percent (100: one busy core; includes finished child processes),
    system/rss_megabytes, system/gpu_memory_megabytes and, if NVML is available,
    system/gpu_percent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sampled_at: float | None = None
        self._processor_seconds = _processor_seconds()
        self._started = clock()

    def __call__(self) -> dict[str, float]:
        """The metrics, or an empty dict if the last sample is recent."""
        now = self._clock()
        if self._sampled_at is not None and now - self._sampled_at < SAMPLE_EVERY_SECONDS:
            return {}
        since = self._started if self._sampled_at is None else self._sampled_at
        before, self._processor_seconds = self._processor_seconds, _processor_seconds()
        self._sampled_at = now
        metrics = {"system/rss_megabytes": _resident_bytes() / MEBIBYTE}
        if now > since:
            metrics["system/cpu_percent"] = 100 * (self._processor_seconds - before) / (now - since)
        return metrics | _gpu()


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _resident_bytes() -> float:
    """Read from /proc; NaN on systems without it."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return float("nan")


def _gpu() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    metrics = {"system/gpu_memory_megabytes": torch.cuda.memory_reserved() / MEBIBYTE}
    # NVML's Python module is not part of torch.
    with contextlib.suppress(ModuleNotFoundError, RuntimeError):
        metrics["system/gpu_percent"] = float(torch.cuda.utilization())
    return metrics
