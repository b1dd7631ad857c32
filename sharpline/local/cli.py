"""`sharpline demo`, `up` and `doctor`."""

import argparse
from collections.abc import Callable, Sequence

from superres.common.console import emit, show
from superres.common.environment import state_folder


def demo(argv: Sequence[str]) -> int:
    """Run the whole loop once: pictures, training, gate, promotion, a served picture."""
    _parser("demo", demo).parse_args(argv)
    from sharpline.local import demo as local

    local.demo(state_folder())
    return 0


def up(argv: Sequence[str]) -> int:
    """Run every service of the loop until Ctrl-C."""
    parser = _parser("up", up)
    parser.add_argument(
        "--no-loop",
        action="store_true",
        help="do not start a first cycle of the loop where no dataset exists yet",
    )
    arguments = parser.parse_args(argv)
    from sharpline.local import up as local

    local.up(state_folder(), with_loop=not arguments.no_loop)
    return 0


def doctor(argv: Sequence[str]) -> int:
    """Check this machine's requirements; exit 1 where a required one is missing."""
    parser = _parser("doctor", doctor)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON line")
    arguments = parser.parse_args(argv)
    from sharpline.local.doctor import examine

    findings = examine(state_folder())
    healthy = all(finding.ok for finding in findings if finding.needed)
    if arguments.json:
        emit({"ok": healthy, "findings": [finding.as_dict() for finding in findings]})
    else:
        show("\n".join(map(str, findings)))
    return 0 if healthy else 1


def _parser(name: str, command: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"sharpline {name}",
        description=command.__doc__,
        epilog="State is kept in SHARPLINE_STATE (default: .sharpline).",
    )
