"""Runs one `sharpline` command per task, logs its stderr and returns its JSON result."""

import ctypes
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from superres.common.environment import state_folder

STARTERS = Path(__file__).resolve().parent.parent / "models"
TAIL_LINES = 25
USAGE_ERROR = 2  # exit code
PR_SET_PDEATHSIG = 1
RUNNING = "running:"  # how the first line of a task's log begins, before those of its command

logger = logging.getLogger(__name__)
libc = ctypes.CDLL(None, use_errno=True)


class StepFailed(RuntimeError):
    """A command failed; the message ends with the last lines of its log."""


class UsageFailed(StepFailed):
    """A command failed with a usage error, which a retry does not fix."""


def step(
    *arguments: str | Path,
    result_codes: Collection[int] = (0,),
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    log: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Run `sharpline ARGUMENTS --json` and return the JSON object on its last line of output.

    Each line of its standard error goes to `log`. The command stays in this task's process group
    and dies with the task, so that killing the task leaves no process behind. An exit code in
    `result_codes` is a result if there is a JSON object (the gate refuses with 1); 2 raises
    UsageFailed, anything else StepFailed.
    """
    environment = os.environ if environment is None else environment
    argv = [*(command or [sharpline(environment)]), *map(str, arguments), "--json"]
    logger.info("%s %s", RUNNING, " ".join(argv))
    with tempfile.TemporaryFile() as stdout:
        process = subprocess.Popen(
            argv,
            env=environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=_terminate_with_parent(os.getpid()),
        )
        try:
            tail = _stream_log(process, log)
            code = process.wait()
        finally:
            _terminate(process)
        stdout.seek(0)
        return _result(argv, code, stdout.read().decode(errors="replace"), tail, result_codes)


def fetch_source(name: str, parts: Sequence[str], mirror: str | None) -> dict[str, Any]:
    """Fetch parts of a source of the catalogue, from `mirror` if given."""
    part_options = [argument for part in parts for argument in ("--part", part)]
    return step("data", "fetch", name, *part_options, *(("--from", mirror) if mirror else ()))


def plan_pairs(
    sources: Sequence[str], degrade: str, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Plan a dataset of `sources` with the scale, draws and split of a `build_pairs` run."""
    first, *others = sources
    also = [argument for other in others for argument in ("--also", other)]
    names = {"scale": "--scale", "draws": "--draws", "split_every": "--split-every"}
    options = [
        argument for name, option in names.items() for argument in (option, parameters[name])
    ]
    out = ("--out", state_folder() / "datasets")
    return step("data", "plan", first, *also, "--degrade", degrade, *options, *out)


def fine_tune(recipe: str, data: str, profile: str, parent_run: str) -> dict[str, Any]:
    """Train `recipe` on the dataset folder `data`, starting from its champion if there is one.

    Its MLflow run is a child of the run named `parent_run`.
    """
    champion = champion_bundle(recipe)
    init = ("--init", champion) if champion else ()
    run_options = ("--parent-run", parent_run, "--out", state_folder() / "runs")
    return step("train", recipe, "--data", data, *init, "--profile", profile, *run_options)


def sharpline(environment: Mapping[str, str]) -> str:
    """The `sharpline` command on this PATH, or the one next to this Python."""
    command = shutil.which("sharpline", path=environment.get("PATH"))
    return command or str(Path(sys.executable).with_name("sharpline"))


def champion_bundle(model: str) -> Path | None:
    """The bundle to fine-tune from: the champion in the model folder, else the starter model."""
    index = state_folder() / "models" / "index.json"
    if index.exists():
        champion = json.loads(index.read_text()).get(model, {}).get("champion")
        if champion:
            return index.parent / "by-sha" / champion
    starter = STARTERS / model
    return starter if starter.is_dir() else None


def _stream_log(process: subprocess.Popen[str], log: Callable[[str], None]) -> Sequence[str]:
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    assert process.stderr is not None
    with process.stderr as lines:
        for line in _non_empty_lines(lines):
            tail.append(line)
            log(line)
    return tail


def _non_empty_lines(stream: IO[str]) -> Iterator[str]:
    return (line.rstrip() for line in stream if line.strip())


def _result(
    argv: Sequence[str], code: int, output: str, tail: Sequence[str], result_codes: Collection[int]
) -> dict[str, Any]:
    result = _last_object(output)
    if code in result_codes and result is not None:
        return result
    if code == 0:
        raise StepFailed(f"{' '.join(argv)} succeeded but printed no result")
    outcome = (
        f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit {code}"
    )
    failure = UsageFailed if code == USAGE_ERROR else StepFailed
    raise failure("\n".join([f"{' '.join(argv)} {outcome}", *tail]))


def _last_object(output: str) -> dict[str, Any] | None:
    lines = output.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _terminate_with_parent(parent_pid: int) -> Callable[[], None]:
    def set_death_signal() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            os.kill(os.getpid(), signal.SIGTERM)

    return set_death_signal


def _terminate(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
