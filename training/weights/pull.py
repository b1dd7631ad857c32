"""Official weights by name: fetched once, checked, and recorded."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx

from superres.common.console import say
from superres.common.errors import SharplineError, UsageError
from superres.common.files import sha256_file, write_json
from training.data.fetch.transfer import RetryPolicy, Transfer
from training.data.sources.entries import Archive
from training.weights.official import PUBLISHED, PublishedWeights

Fetch = Callable[[str, Path], None]
SILENCE_SECONDS, CONNECT_SECONDS = 60.0, 20.0
RECORD_SUFFIX = ".json"
SHA256_DIGITS = 64


class ChecksumMismatch(SharplineError):
    """A file of weights is not the one that is known under its name."""


def find_published(name: str) -> PublishedWeights:
    """The entry of that name, or of the file that its authors call so, as RealESRGAN_x4plus.

    UsageError lists the names that there are.
    """
    for published in PUBLISHED:
        if name in (published.name, published.file_name, Path(published.file_name).stem):
            return published
    names = ", ".join(published.name for published in PUBLISHED)
    raise UsageError(f"no published weights {name!r}; there are: {names}")


def obtain(published: PublishedWeights, mirror: Path | None, store: Path, fetch: Fetch) -> Path:
    """The file of weights, checked against what is known of it.

    `mirror` is a file, or a folder that holds one of the published name; without it the file is
    fetched into `store`, where it is kept. A file whose sha256 nobody has published is believed
    the first time, and what it was is recorded in `store`, so that another one is noticed. Raises
    OtherBytes, and throws fetched ones away.
    """
    record = store / (published.file_name + RECORD_SUFFIX)
    if mirror is not None:
        path = mirror / published.file_name if mirror.is_dir() else mirror
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        _check(published, path, record)
        return path
    path = store / published.file_name
    if not path.is_file():
        fetch(published.address, path)
    try:
        _check(published, path, record)
    except ChecksumMismatch:
        path.unlink()
        raise
    return path


def fetch_file(address: str, target: Path) -> None:
    """Bring one file, going on where it broke off; it has its name once it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    with httpx.Client(timeout=timeout, follow_redirects=True) as client:
        wanted = Archive(name=target.name)
        transfer = Transfer(client, address, wanted, target.parent, RetryPolicy())
        transfer.run()
        transfer.partial.replace(target)
        transfer.note.unlink(missing_ok=True)


def _check(published: PublishedWeights, path: Path, record: Path) -> None:
    found = sha256_file(path)
    seen = json.loads(record.read_bytes()) if record.is_file() else None
    known = published.sha256 or (seen and seen["sha256"])
    if known and not found.startswith(known):
        whose = "published" if published.sha256 else f"recorded on {seen and seen['when']}"
        raise ChecksumMismatch(
            f"{path} has the sha256 {found}, but the one {whose} is {known}: it is damaged, or not "
            f"{published.name} any more"
        )
    checked = "published" if len(published.sha256 or "") == SHA256_DIGITS else "first use"
    if checked == "first use" and seen is None:
        say(f"nobody has published the sha256 of {published.file_name}; believing {found}")
    if seen is None or seen["sha256"] != found:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(
            record,
            {"sha256": found, "address": published.address, "checked": checked, "when": when},
        )
