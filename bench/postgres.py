"""A temporary Postgres server from Debian's package, for benchmarks and tests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sharpline.local.processes import choose_ports

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def postgres_unavailable_reason() -> str | None:
    """Why Postgres cannot be started here, None if it can."""
    return None if PROGRAMS else "needs Debian's package postgresql"


@contextmanager
def postgres() -> Iterator[str]:
    """A running server with an empty database; its URL for SQLAlchemy."""
    programs = PROGRAMS[-1]
    with TemporaryDirectory(prefix="sharpline-postgres-") as folder:
        user: dict[str, Any] = {}
        if os.geteuid() == 0:  # Postgres refuses root
            shutil.chown(folder, "postgres", "postgres")
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        [port] = choose_ports(0)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
        data = f"{folder}/data"
        initdb = [programs / "initdb", "-D", data, "-U", "sharpline", "-A", "trust", "-N"]
        subprocess.run([*initdb, "-E", "UTF8", "--locale=C"], check=True, **quiet)
        pg_ctl = [programs / "pg_ctl", "-D", data, "-w", "-t", "30"]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        start = [*pg_ctl, "-l", f"{folder}/log", "-o", options, "start"]
        subprocess.run(start, check=True, **quiet)
        try:
            yield f"postgresql+psycopg://sharpline@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*pg_ctl, "-m", "immediate", "stop"], check=True, **quiet)
