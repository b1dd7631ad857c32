"""Supervised service processes: start, await readiness, and stop with all descendants."""

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
from typing import Self

import httpx

from sharpline.local import supervisor
from sharpline.local.supervisor import DEFAULT_GRACE, GracePeriods
from superres.common.errors import SharplineError

POLL_SECONDS = 0.2
PROBE_SECONDS = 5.0
TAIL_LINES = 15
SUPERVISOR_SECONDS = 5.0  # for the supervisor to react, kill leftovers and exit


class ServiceFailed(SharplineError):
    """A service exited or did not get ready; the message has the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One running command, its supervisor and its log."""

    name: str
    supervisor: subprocess.Popen[bytes]
    log: Path
    grace: GracePeriods = DEFAULT_GRACE

    @property
    def stop_seconds(self) -> float:
        """The maximum time that stopping can take."""
        return self.grace.command_seconds + self.grace.descendants_seconds + SUPERVISOR_SECONDS

    def await_ready(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Return once `ready()`; raises ServiceFailed if the process exits or on timeout."""
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            self.check()
            if time.monotonic() >= deadline:
                raise self.failure(f"was not ready after {timeout_seconds:.0f} s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.supervisor.wait(timeout=POLL_SECONDS)

    def check(self) -> None:
        """Raises ServiceFailed if the process has exited."""
        code = self.supervisor.poll()
        if code is not None:
            raise self.failure(f"ended with exit code {code}")

    def failure(self, what: str) -> ServiceFailed:
        """The error that says what happened to this service, with the end of its log."""
        return ServiceFailed(f"{self.name} {what}; the end of {self.log}:\n{tail(self.log)}")


class Services:
    """Starts commands, each under a supervisor in its own session, and stops them all.

    A context manager: leaving the block stops every process and its descendants. If this process
    is killed with SIGKILL, the supervisors do the same.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: list[Service] = []
        self._lifeline = socket.socketpair()  # the supervisors' end, this process's end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        grace: GracePeriods = DEFAULT_GRACE,
    ) -> Service:
        """Start `command` with exactly this environment; its output goes to LOGS/NAME.log."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        lifeline_fd = self._lifeline[0].fileno()
        argv = [sys.executable, "-m", supervisor.__name__, str(lifeline_fd)]
        argv += [str(grace.command_seconds), str(grace.descendants_seconds), *map(str, command)]
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
        """Run `command` to completion; raises ServiceFailed if it fails or on timeout."""
        service = self.start(name, command, environment=environment)
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.supervisor.wait(timeout=timeout_seconds)
        if service.supervisor.poll() != 0:
            service.check()
            raise service.failure(f"did not end within {timeout_seconds:.0f} s")
        self.running.remove(service)

    def named(self, name: str) -> Service:
        """The running service of this name."""
        return next(service for service in self.running if service.name == name)

    def check(self) -> None:
        """Raises ServiceFailed if one of the services has exited."""
        for service in self.running:
            service.check()

    def stop(self) -> None:
        """Stop everything; return when the last process has exited. Ctrl-C is ignored meanwhile."""
        with handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):
            for service in self.running:
                service.supervisor.terminate()
            began = time.monotonic()
            for service in self.running:
                remaining = began + service.stop_seconds - time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    service.supervisor.wait(timeout=max(1.0, remaining))
            self.running.clear()
            for end in self._lifeline:
                end.close()


@contextlib.contextmanager
def handled(
    handler: Callable[..., None] | signal.Handlers, *numbers: signal.Signals
) -> Iterator[None]:
    """Handle these signals by `handler` within the block; call it in the main thread."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def interruptible() -> contextlib.AbstractContextManager[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP within the block, as for Ctrl-C."""
    return handled(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP)


def local_url(port: int) -> str:
    """The URL of a server on this machine."""
    return f"http://127.0.0.1:{port}"


def responds(url: str) -> bool:
    """Whether a GET of `url` succeeds."""
    try:
        return httpx.get(url, timeout=PROBE_SECONDS).is_success
    except httpx.HTTPError:
        return False


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, indented."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


# Below the default ephemeral port range of Linux and macOS: a port that is free now is still free
# when its server has started, half a minute later.
UNASSIGNED = range(20_000, 32_768)


def choose_ports(*preferred: int) -> list[int]:
    """A free port on 127.0.0.1 for each preference: itself if free, else any; 0 means any."""
    with contextlib.ExitStack() as sockets:
        return [_reserve_port(port, sockets) for port in preferred]


def port_is_free(port: int) -> bool:
    """Whether a server can listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0 and _can_bind(probe, port)


def _can_bind(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _reserve_port(preferred: int, sockets: contextlib.ExitStack) -> int:
    probe = sockets.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    candidates = [preferred] if preferred else []
    for port in (*candidates, *random.sample(UNASSIGNED, len(UNASSIGNED))):
        if _can_bind(probe, port):
            return port
    raise SharplineError(
        f"every port of 127.0.0.1 from {UNASSIGNED[0]} to {UNASSIGNED[-1]} is in use; "
        "stop some of the programs that listen there"
    )
