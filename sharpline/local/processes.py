"""Processes that start together and stop together, and leave nothing behind."""

import contextlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sharpline.local import supervisor
from sharpline.local.supervisor import USUAL_GRACE, GracePeriods
from superres.common.errors import SharplineError

POLL_SECONDS = 0.2
TAIL_LINES = 15
SUPERVISOR_SECONDS = 5.0  # for a keeper to notice, to kill what is left, and to go


class ServiceFailed(SharplineError):
    """A service ended or did not get ready; the message shows the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One running command, its keeper and its log."""

    name: str
    supervisor: subprocess.Popen[bytes]
    log: Path
    grace: GracePeriods = USUAL_GRACE

    @property
    def stop_seconds(self) -> float:
        """The longest that ending it can take."""
        return self.grace.command_seconds + self.grace.others_seconds + SUPERVISOR_SECONDS

    def await_ready(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Return once `ready()`; raises ServiceFailed when the process ends or time is up."""
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            self.check()
            if time.monotonic() >= deadline:
                raise ServiceFailed(
                    f"{self.name} was not ready after {timeout_seconds:.0f} s; "
                    f"the end of {self.log}:\n{tail(self.log)}"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.supervisor.wait(timeout=POLL_SECONDS)

    def check(self) -> None:
        """Raises ServiceFailed where the process has ended."""
        code = self.supervisor.poll()
        if code is not None:
            raise ServiceFailed(
                f"{self.name} ended with exit code {code}; the end of {self.log}:\n{tail(self.log)}"
            )


class Services:
    """Starts commands, each under a keeper in a session of its own, and stops them all.

    A context manager; however the block is left, every process and its descendants are gone
    afterwards. Should this process be killed outright, the keepers see to the same.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: list[Service] = []
        self._lifeline = socket.socketpair()  # the keepers' end, ours

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        grace: GracePeriods = USUAL_GRACE,
    ) -> Service:
        """Start `command` with exactly this environment; it logs to LOGS/NAME.log."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        lifeline_fd = self._lifeline[0].fileno()
        argv = [sys.executable, "-m", supervisor.__name__, str(lifeline_fd)]
        argv += [str(grace.command_seconds), str(grace.others_seconds), *map(str, command)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                argv,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=[lifeline_fd],
                start_new_session=True,
            )
        service = Service(name=name, supervisor=process, log=log, grace=grace)
        self.running.append(service)
        return service

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        timeout_seconds: float,
    ) -> None:
        """Run `command` to its end; raises ServiceFailed where it fails or takes too long."""
        service = self.start(name, command, environment=environment)
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.supervisor.wait(timeout=timeout_seconds)
        if service.supervisor.poll() != 0:
            service.check()
            raise ServiceFailed(
                f"{name} did not end within {timeout_seconds:.0f} s; the end of "
                f"{service.log}:\n{tail(service.log)}"
            )
        self.running.remove(service)

    def named(self, name: str) -> Service:
        """The running service of this name."""
        return next(service for service in self.running if service.name == name)

    def check(self) -> None:
        """Raises ServiceFailed where one of the services has ended."""
        for service in self.running:
            service.check()

    def stop(self) -> None:
        """End everything; returns when the last process is gone. Ctrl-C does not cut it short."""
        with ignored(signal.SIGINT, signal.SIGTERM):
            for service in self.running:
                service.supervisor.terminate()
            began = time.monotonic()
            for service in self.running:
                left = began + service.stop_seconds - time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    service.supervisor.wait(timeout=max(1.0, left))
            self.running.clear()
            for end in self._lifeline:
                end.close()


@contextlib.contextmanager
def ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Ignore these signals for a while (in the main thread; elsewhere they do not arrive)."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block the way Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, indented."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


# Below what Linux and macOS by default give to connections and to who asks for any port: one that
# is free now is free still when its server has started, half a minute later.
UNASSIGNED = range(20_000, 32_768)


def choose_ports(*preferred: int) -> list[int]:
    """One port on 127.0.0.1 for each preference: itself where free, else any; 0 means any."""
    with contextlib.ExitStack() as held:
        return [_hold(port, held) for port in preferred]


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0 and _can_bind(probe, port)


def _can_bind(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _hold(preferred: int, held: contextlib.ExitStack) -> int:
    probe = held.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    wanted = [preferred] if preferred else []
    for port in (*wanted, *random.sample(UNASSIGNED, len(UNASSIGNED))):
        if _can_bind(probe, port):
            return port
    raise SharplineError(
        f"every port of 127.0.0.1 from {UNASSIGNED[0]} to {UNASSIGNED[-1]} is taken; "
        "end some of what listens there"
    )
