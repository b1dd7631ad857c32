"""Files and folders are written atomically; locks are exclusive and end with their process."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from superres.common import console
from superres.common.environment import cpu_threads, state_folder
from superres.common.errors import SharplineError
from superres.common.files import file_lock, sha256_bytes, sha256_file, staged_folder, write_json


@contextmanager
def full_disk(max_bytes: int) -> Iterator[None]:
    """Let no file of this process become larger; the error is EFBIG instead of ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with full_disk(1000), pytest.raises(SharplineError, match=r"cannot write .*value\.json: File"):
        write_json(path, {"a": "2" * 2000})
    assert json.loads(path.read_text()) == {"a": 1}
    path.with_name("folder").mkdir()
    with pytest.raises(SharplineError, match="cannot write"):
        write_json(path.with_name("folder"), {"a": 2})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "value.json"]
    assert sha256_file(path) == sha256_bytes(path.read_bytes())


def test_a_folder_is_replaced_atomically(tmp_path: Path) -> None:
    final = tmp_path / "final"
    for text in ("first", "second"):
        with staged_folder(final) as staging:
            assert not (final / "new").exists() or text == "second"
            (staging / "new").write_text(text)
    assert (final / "new").read_text() == "second"
    with pytest.raises(ZeroDivisionError), staged_folder(final) as staging:
        (staging / "new").write_text(f"third {1 / 0}")
    assert (final / "new").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_lock_is_refused_while_held_and_free_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from superres.common.files import file_lock\n"
            f"with file_lock(pathlib.Path({str(path)!r})):\n print('held', flush=True)\n"
            " sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SharplineError, match="locked"), file_lock(path):
            pass
        holder.kill()
    with file_lock(path, timeout_seconds=5):
        pass


def test_threads_and_state_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHARPLINE_THREADS", "3")
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path))
    assert cpu_threads() == 3
    assert state_folder() == tmp_path
    monkeypatch.delenv("SHARPLINE_THREADS")
    default = cpu_threads()
    assert default == len(os.sched_getaffinity(0))
    monkeypatch.setenv("SHARPLINE_THREADS", "many")
    assert cpu_threads() == default


def test_progress_is_logged_in_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(console.track([1, 2], "counting")) == [1, 2]
    assert "counting: 2/2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="JSON"):
        console.emit({"psnr": float("inf")})
