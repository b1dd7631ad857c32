"""Checks the monitoring files with promtool and amtool, if installed."""

import shutil
import subprocess
import sys
from pathlib import Path

from superres.common.console import say

HERE = Path(__file__).parent
COMMANDS = (
    ("promtool", "check", "config", HERE / "prometheus/prometheus.yml"),
    ("promtool", "test", "rules", *sorted(HERE.glob("prometheus/tests/*.yml"))),
    ("amtool", "check-config", HERE / "alertmanager/alertmanager.yml"),
)
PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}


def main() -> int:
    """Run every check; return 1 if one failed, after printing the tool's output."""
    failed = False
    for program, *arguments in COMMANDS:
        if shutil.which(str(program)) is None:
            say(
                f"monitoring: {program} {arguments[0]} skipped; "
                f"install Debian's {PACKAGES[program]}"
            )
            continue
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            failed = True
            say(f"monitoring: {program} {arguments[0]} failed\n{done.stdout}{done.stderr}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
