"""`sharpline client`: enhance pictures with a remote server."""

import argparse
import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpline.client.folder import FolderReport, enhance_folder
from sharpline.client.http import TIMEOUT_SECONDS, URL, AsyncClient, Client
from sharpline.client.types import EnhanceOptions, RetryPolicy
from superres.common.console import emit, progress_log, say, show
from superres.common.errors import SharplineError, UsageError
from superres.image.codecs import OUTPUT_FORMATS

KEY_VARIABLE, URL_VARIABLE = "SHARPLINE_KEY", "SHARPLINE_URL"


def client(argv: Sequence[str]) -> int:
    """Enlarge pictures with a server, or list its models."""
    arguments = _parser().parse_args(argv)
    return arguments.handler(arguments)


def _enhance(arguments: argparse.Namespace) -> int:
    """Enlarge files and folders; an interrupted run is resumed by running it again."""
    if arguments.workers < 1:
        raise UsageError("--workers must be at least 1")
    report = asyncio.run(_enhance_inputs(arguments))
    for source, reason in report.failed.items():
        say(f"failed {source}: {reason}")
    if arguments.json:
        emit(
            {
                "written": [str(path) for path in report.written],
                "skipped": [str(path) for path in report.skipped],
                "failed": [{"picture": name, "reason": why} for name, why in report.failed.items()],
            }
        )
    else:
        skipped = f", {len(report.skipped)} already done" if report.skipped else ""
        failed = f", {len(report.failed)} failed" if report.failed else ""
        show(f"{len(report.written)} pictures enlarged into {arguments.out}{skipped}{failed}")
    return 1 if report.failed else 0


async def _enhance_inputs(arguments: argparse.Namespace) -> FolderReport:
    options = EnhanceOptions(
        model=arguments.model,
        scale=arguments.scale,
        region=arguments.region,
        format=arguments.format,
        quality=arguments.quality,
        deadline=arguments.deadline,
        on_too_large="shrink" if arguments.shrink else None,
        keep_metadata=True if arguments.keep_metadata else None,
    )
    async with AsyncClient(arguments.url, **_connection(arguments)) as connected:
        return await enhance_folder(
            connected,
            arguments.inputs,
            arguments.out,
            options,
            workers=arguments.workers,
            overwrite=arguments.overwrite,
            on_progress=progress_log("enlarging"),
        )


def _models(arguments: argparse.Namespace) -> int:
    """List the server's models."""
    with Client(arguments.url, **_connection(arguments)) as connected:
        models = connected.models()
    if arguments.json:
        emit({"models": models})
        return 0
    for model in models:
        mark = " (default)" if model["default"] else ""
        show(f"{model['name']}{mark}: {model['task']} x{model['scale']}, {model['version']}")
    return 0


def _connection(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a client, from those of `_add_connection`."""
    key = _key(arguments)
    if arguments.attempts < 1:
        raise UsageError("--attempts must be at least 1")
    retry_policy = RetryPolicy(attempts=arguments.attempts)
    return {"key": key, "timeout_seconds": arguments.timeout, "retry_policy": retry_policy}


def _key(arguments: argparse.Namespace) -> str | None:
    """The API key; not a command-line argument, which every process list would show."""
    if arguments.key_file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return arguments.key_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SharplineError(f"cannot read {arguments.key_file}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharpline client", description=client.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    enhance = commands.add_parser("enhance", help="enlarge pictures", description=_enhance.__doc__)
    enhance.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="files or folders")
    enhance.add_argument("-o", "--out", type=Path, required=True, metavar="OUT_FOLDER")
    enhance.add_argument("--model", help="a model of the server, or auto")
    enhance.add_argument("--scale", type=int, metavar="N", help="only models of this scale")
    enhance.add_argument("--region", help="x,y,width,height or corners: use the model only here")
    enhance.add_argument("--format", choices=OUTPUT_FORMATS, help="default: the input's")
    enhance.add_argument("--quality", type=int, help="of JPEG, WebP and AVIF, 1 to 100")
    enhance.add_argument("--deadline", type=float, metavar="SECONDS", help="for each picture")
    enhance.add_argument("--shrink", action="store_true", help="shrink pictures that are too large")
    enhance.add_argument("--keep-metadata", action="store_true", help="keep EXIF")
    enhance.add_argument("--overwrite", action="store_true", help="replace other files as well")
    enhance.add_argument("--workers", type=int, default=4, help="parallel requests (default: 4)")
    enhance.set_defaults(handler=_enhance)
    models = commands.add_parser("models", help="list the models", description=_models.__doc__)
    models.set_defaults(handler=_models)
    for command in (enhance, models):
        _add_connection(command)
    return parser


def _add_connection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE) or URL,
        help=f"the server's URL (default: {URL_VARIABLE}, else {URL})",
    )
    command.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"file with the key (else {KEY_VARIABLE})"
    )
    command.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, metavar="SECONDS")
    command.add_argument("--attempts", type=int, default=6, help="per request (default: 6)")
    command.add_argument("--json", action="store_true")
