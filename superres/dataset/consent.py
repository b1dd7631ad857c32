"""Pictures that clients sent are never training data: their folders carry a marker file.

Code that stores a client's picture calls `mark_as_clients` on the folder before the first write;
code that reads training pictures calls `refuse_clients_pictures` on each.
"""

import os
from pathlib import Path

from superres.common.errors import SharplineError
from superres.common.files import write_bytes

MARKER = ".clients-pictures"
EXPLANATION = b"""The pictures here and below were sent by clients, who keep their rights.
They are never training data: `sharpline data` refuses this folder as long as this file is here.
"""


class ClientsPictures(SharplineError):
    """A picture or folder that may not become training data, because clients sent it."""


def mark_as_clients(folder: Path) -> None:
    """Exclude `folder` and everything below it from training; idempotent."""
    if not (folder / MARKER).is_file():
        write_bytes(folder / MARKER, EXPLANATION)


def refuse_clients_pictures(path: Path) -> None:
    """Raise ClientsPictures if a file or folder lies in a marked folder, also through links."""
    for candidate_path in {path.absolute(), path.resolve()}:
        for folder in (candidate_path, *candidate_path.parents):
            if (folder / MARKER).exists():
                raise ClientsPictures(
                    f"{path} lies in {folder}, where a service keeps pictures that clients sent; "
                    "they are not yours to train on"
                )


def refuse_marked_below(folder: Path) -> None:
    """Raise ClientsPictures if any folder below `folder` is marked."""
    for below, _, files in os.walk(folder):
        if MARKER in files:
            raise ClientsPictures(
                f"{folder} holds {below}, where a service keeps pictures that clients sent; "
                "they are not yours to train on: add a folder that holds only your own"
            )
