"""Official weights by name: downloaded once, verified, and recorded."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx

from superres.common.console import say
from superres.common.errors import SharplineError, UsageError
from superres.common.files import sha256_file, write_json
from superres.common.names import unknown_name
from training.data.fetch.transfer import RetryPolicy, Transfer
from training.data.sources.entries import Archive
from training.weights.official import PUBLISHED, PublishedWeights

Fetch = Callable[[str, Path], None]
READ_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS = 60.0, 20.0
RECORD_SUFFIX = ".json"
SHA256_DIGITS = 64


class ChecksumMismatch(SharplineError):
    """The sha256 of a file of weights is not the expected one."""


def find_published(name: str) -> PublishedWeights:
    """The entry by its name or by its authors' file name, such as RealESRGAN_x4plus.

    Raises UsageError listing the available names.
    """
    for published in PUBLISHED:
        if name in (published.name, published.file_name, Path(published.file_name).stem):
            return published
    names = [published.name for published in PUBLISHED]
    raise UsageError(unknown_name("published weights", name, names))


def obtain(published: PublishedWeights, mirror: Path | None, store: Path, fetch: Fetch) -> Path:
    """Return the verified file of weights.

    `mirror` is the file, or a folder with a file of the published name; without it the file is
    downloaded to `store`. If no sha256 has been published, the first one is trusted and recorded in
    `store`. Raises ChecksumMismatch for any other file and deletes it if it was downloaded.
    """
    record = store / (published.file_name + RECORD_SUFFIX)
    if mirror is not None:
        path = mirror / published.file_name if mirror.is_dir() else mirror
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        _verify_checksum(published, path, record)
        return path
    path = store / published.file_name
    if not path.is_file():
        fetch(published.url, path)
    try:
        _verify_checksum(published, path, record)
    except ChecksumMismatch:
        path.unlink()
        raise
    return path


def fetch_file(url: str, target: Path) -> None:
    """Download one file, resuming a partial download; it is renamed once complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    with httpx.Client(timeout=timeout, follow_redirects=True) as client:
        archive = Archive(name=target.name)
        transfer = Transfer(client, url, archive, target.parent, RetryPolicy())
        transfer.run()
        transfer.partial.replace(target)
        transfer.metadata_path.unlink(missing_ok=True)


def _verify_checksum(published: PublishedWeights, path: Path, record: Path) -> None:
    actual = sha256_file(path)
    recorded = json.loads(record.read_bytes()) if record.is_file() else None
    expected = published.sha256 or (recorded and recorded["sha256"])
    if expected and not actual.startswith(expected):
        origin = "published" if published.sha256 else f"recorded on {recorded and recorded['when']}"
        raise ChecksumMismatch(
            f"{path} has the sha256 {actual}, but the one {origin} is {expected}: the file is "
            f"damaged, or is not {published.name}"
        )
    checked = "published" if len(published.sha256 or "") == SHA256_DIGITS else "first use"
    if checked == "first use" and recorded is None:
        say(f"no sha256 of {published.file_name} has been published; trusting {actual}")
    if recorded is None or recorded["sha256"] != actual:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(
            record,
            {"sha256": actual, "address": published.url, "checked": checked, "when": when},
        )
