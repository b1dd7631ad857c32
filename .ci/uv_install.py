"""Runs `uv pip install ARGUMENTS` with the indexes, folders and certificates that pip is set to.

uv does not read pip's configuration. Of several indexes pip takes the best version, whichever
index has it; uv does so only on request. Variables of uv that are set already win.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

PYTHON = Path(".venv/bin/python")
VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
}


def pip_settings() -> dict[str, str]:
    """pip's settings for installations by name, those of the environment last."""
    listed = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    lines = [line.partition("=") for line in listed.stdout.splitlines()]
    ranked = sorted(lines, key=lambda line: (line[0].startswith(":env:"), "install." in line[0]))
    return {key.rpartition(".")[2]: str(ast.literal_eval(value)) for key, _, value in ranked}


def main(arguments: list[str]) -> None:
    settings = pip_settings()
    for name, variable in VARIABLES.items():
        if name in settings:
            separator = "," if name == "find-links" else " "
            os.environ.setdefault(variable, separator.join(settings[name].split()))
    if "extra-index-url" in settings:
        os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    uv = PYTHON.with_name("uv")
    os.execv(uv, [str(uv), "pip", "install", "--python", str(PYTHON), *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
