"""The `sharpline` command: a table of sub-commands, each imported when it runs."""

import importlib
import os
import sys
from dataclasses import dataclass

from superres.common.console import say, show
from superres.common.environment import SHARED
from superres.common.errors import MissingExtra, SharplineError
from superres.common.names import did_you_mean, unknown_name


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command: its `module:function(argv) -> exit code`, summary and required extra."""

    target: str
    summary: str
    extra: str


COMMANDS: dict[str, Command] = {
    "demo": Command("sharpline.local.cli:demo", "run the whole loop once", "all"),
    "up": Command("sharpline.local.cli:up", "run the whole loop until Ctrl-C", "all"),
    "doctor": Command("sharpline.local.cli:doctor", "check this machine's requirements", "all"),
    "enhance": Command(
        "superres.cli.enhance:enhance", "enlarge pictures or folders of them", "serve"
    ),
    "evaluate": Command("superres.cli.evaluate:evaluate", "score a model on pictures", "release"),
    "data": Command("training.data.cli:data", "build and inspect sets of training pairs", "train"),
    "train": Command("training.cli:train", "train a recipe into a bundle", "train"),
    "client": Command("sharpline.client.cli:client", "enlarge pictures with a server", "serve"),
    "passport": Command("sharpline.passport:passport", "show which models made a picture", "all"),
    "register": Command("release.cli:register", "register a bundle as a version", "release"),
    "gate": Command("release.cli:gate", "judge a challenger against the champion", "release"),
    "promote": Command("release.cli:promote", "make a version the champion", "release"),
    "rollback": Command("release.cli:rollback", "restore the previous champion", "release"),
    "canary": Command("release.cli:canary", "serve some clients with a version", "release"),
    "shadow": Command("release.cli:shadow", "compare a version on live pictures", "release"),
    "models pull": Command(
        "training.weights.cli:pull", "fetch official weights as a bundle", "train"
    ),
    "models import": Command(
        "training.weights.cli:import_", "convert a weights file to a bundle", "train"
    ),
    "models follow": Command(
        "release.cli:follow", "sync a model folder with the registry", "release"
    ),
    "keys": Command("serving.cli.keys:keys", "manage API keys", "serve"),
    "serve": Command("serving.cli.serve:serve", "serve models over HTTP", "serve"),
    "bench": Command("superres.cli.bench:bench", "measure model speed on this machine", "serve"),
    "drift": Command("serving.cli.drift:drift", "show input drift of a server", "serve"),
}


def main() -> None:
    """Run the sub-command of the arguments; exit 0: success, 1: failed or refused, 2: usage."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Dispatch `argv` (without the program name) and return the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        show(usage())
        return 0 if argv else 2
    for length in (2, 1):
        command = COMMANDS.get(" ".join(argv[:length]))
        if command is not None:
            return _call(command, argv[length:])
    if group := [name for name in COMMANDS if name.startswith(f"{argv[0]} ")]:
        missing = f"{argv[0]} is one of the commands {', '.join(group)}"
        wrong = unknown_name("command", " ".join(argv[:2]), group)
        say(f"sharpline: {wrong if argv[1:] else missing}")
    else:
        say(f"sharpline: no command {argv[0]!r}{did_you_mean(argv[0], COMMANDS)}\n\n{usage()}")
    return 2


def usage() -> str:
    """The usage text: a table of sub-commands."""
    rows = [f"  {name:<15}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sharpline COMMAND [OPTIONS]",
            "",
            *rows,
            "",
            "Run sharpline COMMAND --help for details.",
        ]
    )


def _call(command: Command, argv: list[str]) -> int:
    module_name, function_name = command.target.split(":")
    try:
        _refuse_unknown_settings()
        function = getattr(importlib.import_module(module_name), function_name)
        return function(argv)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == module_name.split(".")[0]:
            raise
        missing = MissingExtra(f"this command (it could not import {error.name})", command.extra)
        say(f"sharpline: {missing}")
        return missing.exit_code
    except SharplineError as error:
        say(f"sharpline: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("sharpline: interrupted")
        return 130


def _refuse_unknown_settings() -> None:
    """Raise UsageError for a misspelt SHARPLINE_* variable, whatever the command.

    The server's settings are imported only where a variable is set that may be one of them.
    """
    if any(name.startswith("SHARPLINE_") and name not in SHARED for name in os.environ):
        from serving.settings import refuse_unknown

        refuse_unknown(os.environ)
