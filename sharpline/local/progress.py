"""Lines of progress: what the local stack is doing, at least every few seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from superres.common.console import say

INTERVAL_SECONDS = 5.0

Log = Callable[[str], None]


def timed_log() -> Log:
    """A log function that prefixes the seconds since this call."""
    began = time.monotonic()
    return lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}")


@contextmanager
def reported(log: Log, activity: str) -> Iterator[None]:
    """Log `activity`, and again every INTERVAL_SECONDS until the block ends, with its duration."""
    began, ended = time.monotonic(), threading.Event()

    def report() -> None:
        while not ended.wait(INTERVAL_SECONDS):
            log(f"{activity}: {time.monotonic() - began:.0f} s")

    log(activity)
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()
