"""Runs one command and stops it with all its descendants when its owner exits or is killed.

The supervisor is a process between the owner and the command. As a subreaper it adopts the
command's orphans, and it holds one end of the owner's lifeline socket: when the owner dies, even by
SIGKILL, the socket closes and the supervisor stops every descendant. Standard library only.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 0.2  # between SIGKILLs, for processes that were forked meanwhile
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class GracePeriods:
    """Seconds between SIGTERM and SIGKILL for a command, and then for its descendants."""

    command_seconds: float = 10.0
    descendants_seconds: float = 3.0


DEFAULT_GRACE = GracePeriods()


class Supervisor:
    """Owns one command and all its descendants."""

    def __init__(self, command: list[str], lifeline_fd: int, grace: GracePeriods) -> None:
        self.command = command
        self.grace = grace
        self.lifeline_fd = lifeline_fd
        self.exit_code: int | None = None
        self._signals = _signal_pipe()

    def run(self) -> int:
        """Run until the command or the owner exits; return once no descendant is left."""
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.pid = _spawn(self.command)
        self._await(lambda: self.exit_code is not None, None, until_stopped=True)
        self._end()
        return 1 if self.exit_code is None else self.exit_code

    def _end(self) -> None:
        _send(signal.SIGTERM, [self.pid] if self.exit_code is None else [])
        self._await(lambda: self.exit_code is not None, self.grace.command_seconds)
        _send(signal.SIGTERM, descendants(os.getpid()))
        self._await(_nothing_left, self.grace.descendants_seconds)
        while not _nothing_left():
            _send(signal.SIGKILL, descendants(os.getpid()))
            self._await(_nothing_left, KILL_SECONDS)

    def _await(
        self, done: Callable[[], bool], seconds: float | None, *, until_stopped: bool = False
    ) -> None:
        deadline = None if seconds is None else time.monotonic() + seconds
        descriptors = [self._signals, self.lifeline_fd] if until_stopped else [self._signals]
        while not done():
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return
            ready, _, _ = select.select(descriptors, [], [], remaining)
            received = os.read(self._signals, 4096) if self._signals in ready else b""
            self._reap()
            if until_stopped and (self.lifeline_fd in ready or STOP_SIGNALS.intersection(received)):
                return

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.exit_code = os.waitstatus_to_exitcode(status)


def descendants(pid: int) -> Iterator[int]:
    """Every process below `pid`, from /proc."""
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, listing.read_text().split()):
                yield child
                yield from descendants(child)


def _nothing_left() -> bool:
    return next(descendants(os.getpid()), None) is None


def _signal_pipe() -> int:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reading


def _spawn(command: list[str]) -> int:
    supervisor_pid = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        for number in (*STOP_SIGNALS, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if os.getppid() == supervisor_pid:
            os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(127)


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in list(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> None:
    """`supervisor.py LIFELINE_FD COMMAND_SECONDS DESCENDANTS_SECONDS COMMAND...`, see GracePeriods.

    Exits with the command's code, or 128 + n where signal n killed it.
    """
    lifeline_fd = int(sys.argv[1])
    os.set_inheritable(lifeline_fd, False)
    command_seconds, descendants_seconds = map(float, sys.argv[2:4])
    grace = GracePeriods(command_seconds=command_seconds, descendants_seconds=descendants_seconds)
    code = Supervisor(sys.argv[4:], lifeline_fd, grace).run()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
