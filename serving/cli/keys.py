"""`sharpline keys`: manage the server's API keys."""

import argparse
from pathlib import Path

from serving.requests.keys import MAX_PRIORITY, Key, add_key, read_keys, revoke_key
from serving.settings import load_settings
from superres.common.console import emit, say, show
from superres.common.errors import UsageError


def keys(argv: list[str]) -> int:
    """Add, list or revoke API keys; a running server reloads them within a second."""
    arguments = _parser().parse_args(argv)
    return arguments.handler(arguments)


def _add(arguments: argparse.Namespace) -> int:
    path = _file(arguments)
    key, secret = add_key(
        path,
        arguments.name,
        requests_per_minute=arguments.requests_per_minute,
        pixels_per_minute=arguments.pixels_per_minute,
        max_queued_jobs=arguments.max_queued_jobs,
        max_priority=arguments.max_priority,
    )
    if arguments.json:
        emit({**_described(key), "key": secret})
    else:
        say(f"added key {key.id} for {key.name} to {path}; it is shown only this once:")
        show(secret)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    stored = read_keys(_file(arguments))
    if arguments.json:
        emit({"keys": [_described(key) for key in stored]})
        return 0
    for key in stored:
        show(
            f"{key.id}  {key.created}  {_quota(key.requests_per_minute)} requests/min  "
            f"{_quota(key.pixels_per_minute)} pixels/min  "
            f"{_quota(key.max_queued_jobs)} queued jobs up to priority {key.max_priority}  "
            f"{key.name}"
        )
    if not stored:
        say("no keys; create one with `sharpline keys add NAME`")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    key = revoke_key(_file(arguments), arguments.id)
    if arguments.json:
        emit(_described(key))
    else:
        say(f"revoked key {key.id} of {key.name}")
    return 0


def _described(key: Key) -> dict[str, object]:
    return key.model_dump(exclude={"sha256"})


def _quota(per_minute: int | None) -> str:
    return "unlimited" if per_minute is None else f"{per_minute:,}"


def _file(arguments: argparse.Namespace) -> Path:
    path = arguments.file or load_settings().security.keys_file
    if path is None:
        raise UsageError("set the key file with --file or SHARPLINE_SECURITY__KEYS_FILE")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharpline keys", description=keys.__doc__)
    parts = parser.add_subparsers(required=True, metavar="add|list|revoke")
    add = parts.add_parser("add", help="create a key and print it once")
    add.add_argument("name", help="a label for the key's owner")
    add.add_argument("--requests-per-minute", type=_positive, metavar="N")
    add.add_argument("--pixels-per-minute", type=_positive, metavar="N", help="output pixels")
    add.add_argument(
        "--max-queued-jobs", type=_positive, metavar="N", help="most jobs in the queue"
    )
    add.add_argument(
        "--max-priority",
        type=int,
        choices=range(MAX_PRIORITY + 1),
        default=MAX_PRIORITY,
        metavar="N",
        help=f"highest job priority, 0 to {MAX_PRIORITY} (default: {MAX_PRIORITY})",
    )
    add.set_defaults(handler=_add)
    parts.add_parser("list", help="list the keys").set_defaults(handler=_list)
    revoke = parts.add_parser("revoke", help="revoke a key")
    revoke.add_argument("id", help="the key's 12 characters in `sharpline keys list`")
    revoke.set_defaults(handler=_revoke)
    for part in parts.choices.values():
        part.add_argument(
            "--file", type=Path, help="key file (default: SHARPLINE_SECURITY__KEYS_FILE)"
        )
        part.add_argument("--json", action="store_true")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value
