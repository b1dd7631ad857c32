"""Console output: messages on standard error, the result on the last line of standard output."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

LOG_EVERY_SECONDS = 5.0


def say(text: str) -> None:
    """Write one line for a person to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show(text: str) -> None:
    """Write one line of a command's result for a person to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit(result: Mapping[str, object]) -> None:
    """Write the result of a command as one JSON line to standard output."""
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    sys.stdout.flush()


def format_bytes(size_bytes: int) -> str:
    """Format a number of bytes for a person: 448993893 is 449 MB."""
    size, unit = float(size_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"


def print_result(result: Mapping[str, object], as_json: bool) -> None:
    """Print the result of a command: one JSON line for scripts, or one line per key for people."""
    if as_json:
        emit(result)
        return
    for key, value in result.items():
        say(f"{key}: {value}")


def _items_of(done: int, total: int | None) -> str:
    return f"{done}/{'?' if total is None else total}"


def _bytes_of(done: int, total: int | None) -> str:
    return format_bytes(done) + ("" if total is None else f" of {format_bytes(total)}")


def progress_log(
    label: str, text: Callable[[int, int | None], str] = _items_of
) -> Callable[[int, int | None], None]:
    """A function of done and total that logs them every LOG_EVERY_SECONDS, and once at the end."""
    last_seconds = time.monotonic()

    def log(done: int, total: int | None) -> None:
        nonlocal last_seconds
        now_seconds = time.monotonic()
        if done == total or now_seconds - last_seconds >= LOG_EVERY_SECONDS:
            say(f"{label}: {text(done, total)}")
            last_seconds = now_seconds

    return log


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, showing a progress bar on a terminal and sparse log lines elsewhere."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, label, total=total, console=Console(stderr=True))
        return
    log = progress_log(label)
    for done, item in enumerate(items, start=1):
        yield item
        log(done, total)


@contextmanager
def track_bytes(
    label: str, total_bytes: int | None, done_bytes: int
) -> Iterator[Callable[[int], None]]:
    """Show the progress of a transfer; call the yielded function with the size of each chunk.

    A progress bar on a terminal, sparse log lines elsewhere, as `track` does for items.
    """
    if sys.stderr.isatty():
        from rich import progress as rich
        from rich.console import Console

        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn())
        rates = (rich.TransferSpeedColumn(), rich.TimeRemainingColumn())
        with rich.Progress(*columns, *rates, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total_bytes, completed=done_bytes)
            yield lambda size: bar.advance(task, size)
        return
    log = progress_log(label, _bytes_of)

    def count(size: int) -> None:
        nonlocal done_bytes
        done_bytes += size
        log(done_bytes, total_bytes)

    yield count
