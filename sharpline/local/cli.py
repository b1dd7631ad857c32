"""`sharpline demo`, `up` and `doctor`."""

import argparse
from collections.abc import Callable, Sequence

from superres.common.console import emit, show
from superres.common.environment import state_folder


def demo(argv: Sequence[str]) -> int:
    """Run the whole loop once, for real: pictures, training, gate, promotion, a served picture."""
    _parser("demo", demo).parse_args(argv)
    from sharpline.local import demo as local

    local.demo(state_folder())
    return 0


def up(argv: Sequence[str]) -> int:
    """Run every service of the loop and stay up until Ctrl-C."""
    parser = _parser("up", up)
    parser.add_argument(
        "--no-loop",
        action="store_true",
        help="start nothing by itself, though no dataset was built yet",
    )
    arguments = parser.parse_args(argv)
    from sharpline.local import up as local

    local.up(state_folder(), with_loop=not arguments.no_loop)
    return 0


def doctor(argv: Sequence[str]) -> int:
    """Say what this machine has and lacks; exit 1 where something needed is lacking."""
    parser = _parser("doctor", doctor)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    arguments = parser.parse_args(argv)
    from sharpline.local.doctor import examine

    findings = examine(state_folder())
    healthy = all(finding.ok for finding in findings if finding.needed)
    if arguments.json:
        emit({"ok": healthy, "findings": [finding.as_dict() for finding in findings]})
    else:
        show("\n".join(map(str, findings)))
    return 0 if healthy else 1


def _parser(word: str, command: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"sharpline {word}",
        description=command.__doc__,
        epilog="State is kept in SHARPLINE_STATE (default: .sharpline).",
    )
