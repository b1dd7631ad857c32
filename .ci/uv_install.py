"""Runs `uv pip install ARGUMENTS` with the indexes, folders and certificates that pip is set to.

uv does not read pip's configuration. Of several indexes pip takes the best version, whichever
index has it; uv does so only on request. These variables win where they are set already.
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
    "trusted-host": "UV_INSECURE_HOST",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}
LISTS = {"extra-index-url": " ", "find-links": ",", "trusted-host": " "}  # with uv's separators
SECTIONS = ("global", "install", ":env:")  # later ones win; others are for other commands


def pip_settings() -> dict[str, str]:
    """pip's settings for installations by name; empty ones are ignored, as pip does."""
    command = [PYTHON, "-m", "pip", "config", "list"]
    plain = {"PIP_QUIET": "0", "PIP_VERBOSE": "0"}  # they change what is listed
    listed = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | plain
    )
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in found and (text := str(ast.literal_eval(value)).strip()):
            found[section][name] = text
    return {name: text for section in SECTIONS for name, text in found[section].items()}


def main(arguments: list[str]) -> None:
    settings = pip_settings()
    for name, variable in VARIABLES.items():
        if name in settings:
            text = settings[name]
            value = LISTS[name].join(text.split()) if name in LISTS else text
            os.environ.setdefault(variable, value)
    if "extra-index-url" in settings:
        os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    uv = PYTHON.with_name("uv")
    no_index = settings.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t")
    options = ["--python", str(PYTHON), *(["--no-index"] if no_index else [])]
    os.execv(uv, [str(uv), "pip", "install", *options, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
