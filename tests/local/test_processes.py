"""Services start, get ready and stop with all descendants, also when their owner is killed."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sharpline.local.processes import (
    ServiceFailed,
    Services,
    choose_ports,
    interruptible,
    port_is_free,
    tail,
)
from sharpline.local.supervisor import DEFAULT_GRACE, GracePeriods

# The worst case: a command with a child in its own session that ignores SIGTERM.
STUBBORN = textwrap.dedent("""
    import pathlib, signal, subprocess, sys, time
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    grandchild = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
    pathlib.Path(sys.argv[1]).write_text(str(grandchild.pid))
    if sys.argv[2] == "stay":
        time.sleep(600)
""")
OWNER = textwrap.dedent("""
    import os, pathlib, sys, time
    from sharpline.local.processes import Services
    services = Services(pathlib.Path(sys.argv[1]))
    services.start("worker", [sys.executable, "-c", sys.argv[3], sys.argv[2], "stay"],
                   environment=os.environ)
    print("started", flush=True)
    time.sleep(600)
""")


@pytest.fixture
def services(tmp_path):
    with Services(tmp_path / "logs") as running:
        yield running


def start(services, name, code, *arguments, grace=DEFAULT_GRACE):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return services.start(name, command, environment=os.environ, grace=grace)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def pid_in(await_true):
    """Wait for a file with a process id and return the id."""
    return lambda path: int(await_true(lambda: path.exists() and path.read_text(), path.name))


def test_stop_ends_a_stubborn_grandchild_in_its_own_session(services, tmp_path, pid_in):
    start(services, "worker", STUBBORN, tmp_path / "pid", "stay")
    grandchild = pid_in(tmp_path / "pid")
    assert alive(grandchild)
    services.stop()
    assert not alive(grandchild)


# On SIGTERM it waits for its child, as a scheduler does for its tasks; the child saves and exits.
WAITS_FOR_CHILD = textwrap.dedent("""
    import pathlib, signal, subprocess, sys
    child = '''
    import pathlib, signal, sys
    def save(*_):
        pathlib.Path(sys.argv[1] + ".saved").touch()
        sys.exit()
    signal.signal(signal.SIGTERM, save)
    pathlib.Path(sys.argv[1]).write_text("ready")
    signal.pause()
    '''
    signal.signal(signal.SIGTERM, lambda *_: None)
    subprocess.run([sys.executable, "-c", child, sys.argv[1]])
""")


def test_descendants_get_sigterm_after_the_commands_grace_period(services, tmp_path, await_true):
    ready = tmp_path / "ready"
    grace = GracePeriods(command_seconds=0.0, descendants_seconds=60.0)
    service = start(services, "waiting", WAITS_FOR_CHILD, ready, grace=grace)
    await_true(lambda: ready.exists() and ready.read_text())
    services.stop()
    assert (tmp_path / "ready.saved").exists()
    assert service.supervisor.returncode == 0


def test_a_services_grace_periods_reach_its_supervisor(services):
    slow = start(
        services, "slow", "import time; time.sleep(600)", grace=GracePeriods(command_seconds=50)
    )
    default = start(services, "default", "import time; time.sleep(600)")
    assert slow.stop_seconds - default.stop_seconds == 40.0
    arguments = Path(f"/proc/{slow.supervisor.pid}/cmdline").read_text().split("\0")
    assert arguments[4:6] == ["50", "3.0"]


def test_descendants_are_stopped_when_a_command_exits_by_itself(services, tmp_path, pid_in):
    service = start(services, "worker", STUBBORN, tmp_path / "pid", "exit")
    assert service.supervisor.wait(timeout=60) == 0
    assert not alive(pid_in(tmp_path / "pid"))


def test_killing_the_owner_leaves_no_orphan(tmp_path, pid_in, await_true):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), str(tmp_path / "pid"), STUBBORN],
        stdout=subprocess.PIPE,
    )
    assert owner.stdout.readline() == b"started\n"
    grandchild = pid_in(tmp_path / "pid")
    owner.kill()
    owner.communicate()
    await_true(lambda: not alive(grandchild))


def test_await_ready_returns_as_soon_as_the_condition_holds(services, tmp_path):
    flag = tmp_path / "flag"
    code = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    start(services, "quick", code, flag).await_ready(flag.exists, timeout_seconds=20)


def test_a_dead_service_is_reported_with_the_end_of_its_log(services):
    service = start(services, "broken", "import sys; print('no such model'); sys.exit(3)")
    with pytest.raises(ServiceFailed, match=r"(?s)broken ended with exit code 3.*no such model"):
        service.await_ready(lambda: False, timeout_seconds=20)
    with pytest.raises(ServiceFailed, match="broken"):
        services.check()


def test_a_service_that_never_gets_ready_is_an_error(services):
    service = start(services, "slow", "import time; time.sleep(600)")
    with pytest.raises(ServiceFailed, match="slow was not ready after 0 s"):
        service.await_ready(lambda: False, timeout_seconds=0.3)


def test_a_missing_command_is_an_error(services):
    service = services.start("missing", ["/nowhere/missing"], environment=os.environ)
    with pytest.raises(ServiceFailed, match="cannot start /nowhere/missing"):
        service.await_ready(lambda: False, timeout_seconds=20)


def test_exit_by_signal_is_reported_as_a_shell_would(services):
    service = start(services, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert service.supervisor.wait(timeout=60) == 128 + signal.SIGKILL


def test_chosen_ports_are_distinct_and_a_preference_in_use_is_skipped():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free(port)
        chosen = choose_ports(port, 0, 0)
    assert port not in chosen
    assert len(set(chosen)) == 3
    assert all(port_is_free(port) for port in chosen)


def test_a_free_preference_is_used():
    [port] = choose_ports(0)
    assert choose_ports(port) == [port]


def test_sigterm_interrupts_like_ctrl_c():
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGTERM)


def test_tail_returns_the_last_lines(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("\n".join(map(str, range(100))))
    assert tail(log, 2).split() == ["98", "99"]
    assert tail(tmp_path / "absent.log") == ""
