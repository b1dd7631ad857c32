"""One command, `sharpline`: a table of sub-commands, each behind its own room's `cli` module."""

import importlib
import sys
from dataclasses import dataclass

from superres.common.console import say, show
from superres.common.errors import MissingExtra, SharplineError


@dataclass(frozen=True, slots=True)
class Command:
    """Where a sub-command lives: `module:function(argv) -> exit code`, and the extra it needs."""

    target: str
    summary: str
    extra: str


COMMANDS: dict[str, Command] = {
    "demo": Command("sharpline.local.cli:demo", "run the whole loop once, for real", "all"),
    "up": Command("sharpline.local.cli:up", "run the whole loop and stay up", "all"),
    "doctor": Command("sharpline.local.cli:doctor", "say what this machine has and lacks", "all"),
    "enhance": Command(
        "superres.cli.enhance:enhance", "enlarge pictures or folders of them", "serve"
    ),
    "evaluate": Command("superres.cli.evaluate:evaluate", "score a model on pictures", "release"),
    "data": Command("training.data.cli:data", "build and inspect sets of training pairs", "train"),
    "train": Command("training.cli:train", "train a recipe into a bundle", "train"),
    "client": Command("sharpline.client.cli:client", "have a server enlarge pictures", "serve"),
    "passport": Command("sharpline.passport:passport", "say what made a picture", "all"),
    "register": Command("release.cli:register", "enter a bundle in the registry", "release"),
    "gate": Command("release.cli:gate", "judge a challenger against the champion", "release"),
    "promote": Command("release.cli:promote", "make a proven version the champion", "release"),
    "rollback": Command("release.cli:rollback", "return to the champion before", "release"),
    "canary": Command("release.cli:canary", "let a version answer some clients", "release"),
    "shadow": Command("release.cli:shadow", "compare a version on live pictures", "release"),
    "models pull": Command(
        "training.weights.cli:pull", "fetch official weights as a bundle", "train"
    ),
    "models import": Command(
        "training.weights.cli:import_", "make a bundle of a file of weights", "train"
    ),
    "models follow": Command("release.cli:follow", "keep a folder like the registry", "release"),
    "keys": Command("serving.cli.keys:keys", "say who may call the server", "serve"),
    "serve": Command("serving.cli.serve:serve", "answer pictures over HTTP", "serve"),
    "bench": Command("superres.cli.bench:bench", "say how fast models are here", "serve"),
    "drift": Command("serving.cli.drift:drift", "compare live pictures with training's", "serve"),
}


def main() -> None:
    """Run the sub-command named by the arguments; exit 0 done, 1 failed or refused, 2 misused."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Dispatch `argv` (without the program's name) and return its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        show(usage())
        return 0 if argv else 2
    for arguments in (2, 1):
        command = COMMANDS.get(" ".join(argv[:arguments]))
        if command is not None:
            return _call(command, argv[arguments:])
    say(f"sharpline: no command {argv[0]!r}\n\n{usage()}")
    return 2


def usage() -> str:
    """The table of sub-commands as text."""
    rows = [f"  {name:<15}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sharpline COMMAND [OPTIONS]",
            "",
            *rows,
            "",
            "sharpline COMMAND --help explains one of them.",
        ]
    )


def _call(command: Command, argv: list[str]) -> int:
    module_name, function_name = command.target.split(":")
    try:
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
