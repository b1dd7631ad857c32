"""One `sharpline` command per task: run it, show what it says, hand on what it found."""

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
USAGE_ERROR = 2  # the exit code of a command that was asked for something it does not have
PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)
libc = ctypes.CDLL(None, use_errno=True)


class StepFailed(RuntimeError):
    """A command failed; the message ends with the end of its log."""


class UsageFailed(StepFailed):
    """A command was asked for something that there is not; asking again changes nothing."""


def step(
    *arguments: str | Path,
    result_codes: Collection[int] = (0,),
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run `sharpline WORDS --json` and return the JSON object on its last line of output.

    The command stays in this task's process group and dies with the task, so that killing the
    task leaves nothing behind. An exit code in `result_codes` is an answer where a JSON object
    comes with it (a gate refuses with 1); 2 raises WrongWords, anything else StepFailed.
    """
    environment = os.environ if environment is None else environment
    argv = [*(command or [sharpline(environment)]), *map(str, arguments), "--json"]
    log.info("running: %s", " ".join(argv))
    with tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(
            argv,
            env=environment,
            stdout=answer,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=_die_with(os.getpid()),
        )
        try:
            tail = _follow(process)
            code = process.wait()
        finally:
            _end(process)
        answer.seek(0)
        return _result(argv, code, answer.read().decode(errors="replace"), tail, result_codes)


def fetch_source(name: str, parts: Sequence[str], mirror: str | None) -> dict[str, Any]:
    """Fetch parts of a source of the catalogue, from `mirror` where one is given."""
    wanted = [word for part in parts for word in ("--part", part)]
    return step("data", "fetch", name, *wanted, *(("--from", mirror) if mirror else ()))


def plan_pairs(
    sources: Sequence[str], degrade: str, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Plan a dataset of `sources`, with scale, draws and split of a `build_pairs` run."""
    first, *others = sources
    also = [word for other in others for word in ("--also", other)]
    names = {"scale": "--scale", "draws": "--draws", "split_every": "--split-every"}
    options = [word for name, option in names.items() for word in (option, parameters[name])]
    out = ("--out", state_folder() / "datasets")
    return step("data", "plan", first, *also, "--degrade", degrade, *options, *out)


def fine_tune(recipe: str, data: str, profile: str, parent_run: str) -> dict[str, Any]:
    """Train `recipe` on the dataset folder `data`, starting from its champion where it has one.

    Its MLflow run stands under the run of the name `parent_run`, as its siblings' do.
    """
    champion = champion_bundle(recipe)
    start = ("--init", champion) if champion else ()
    where = ("--parent-run", parent_run, "--out", state_folder() / "runs")
    return step("train", recipe, "--data", data, *start, "--profile", profile, *where)


def sharpline(environment: Mapping[str, str]) -> str:
    """The `sharpline` command on this PATH, else the one installed beside this Python."""
    found = shutil.which("sharpline", path=environment.get("PATH"))
    return found or str(Path(sys.executable).with_name("sharpline"))


def champion_bundle(model: str) -> Path | None:
    """The bundle to fine-tune from: the champion in the model folder, else the starter model."""
    index = state_folder() / "models" / "index.json"
    if index.exists():
        champion = json.loads(index.read_text()).get(model, {}).get("champion")
        if champion:
            return index.parent / "by-sha" / champion
    starter = STARTERS / model
    return starter if starter.is_dir() else None


def _follow(process: subprocess.Popen[str]) -> Sequence[str]:
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    assert process.stderr is not None
    with process.stderr as lines:
        for line in _whole_lines(lines):
            tail.append(line)
            log.info("%s", line)
    return tail


def _whole_lines(stream: IO[str]) -> Iterator[str]:
    return (line.rstrip() for line in stream if line.strip())


def _result(
    argv: Sequence[str], code: int, output: str, tail: Sequence[str], result_codes: Collection[int]
) -> dict[str, Any]:
    result = _last_object(output)
    if code in result_codes and result is not None:
        return result
    if code == 0:
        raise StepFailed(f"{' '.join(argv)} ended well but printed no result")
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit {code}"
    failure = UsageFailed if code == USAGE_ERROR else StepFailed
    raise failure("\n".join([f"{' '.join(argv)} {how}", *tail]))


def _last_object(output: str) -> dict[str, Any] | None:
    lines = output.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _die_with(parent_pid: int) -> Callable[[], None]:
    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            os.kill(os.getpid(), signal.SIGTERM)

    return arrange


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
