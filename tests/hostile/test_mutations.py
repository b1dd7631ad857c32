"""Randomly damaged files: the decoder returns a picture or raises PictureError, never crashes."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("mutations.py")
SHORT, FULL, FILES_PER_PROCESS = 2_000, 100_000, 10_000


def test_damaged_files_give_a_picture_or_a_picture_error(tmp_path, soak):
    for first in range(0, FULL if soak else SHORT, FILES_PER_PROCESS):
        progress = tmp_path / f"from-{first}"
        command = [
            sys.executable,
            str(SCRIPT),
            str(first),
            str(FILES_PER_PROCESS if soak else SHORT),
        ]
        done = subprocess.run(
            [*command, str(progress)], capture_output=True, text=True, timeout=900, check=False
        )
        last = progress.read_text().strip() if progress.exists() else "none"
        assert done.returncode == 0, (
            f"exit {done.returncode} at file {last} (mutations.mutated({last}, originals()))\n"
            f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
