"""One picture of a source, for training or comparison."""

from dataclasses import dataclass
from pathlib import Path

UNSTATED = "unstated"  # the author of own pictures: only their licence is stated


@dataclass(frozen=True, slots=True, kw_only=True)
class CropBox:
    """The part of a picture that is used, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePicture:
    """One high-resolution picture; `name` is unique within a dataset.

    `lr_path` is the low-resolution picture that the source provides at the requested scale; the
    file may be missing. `unread` is the reason why `path` is not read, if so; such an entry is only
    reported.
    """

    name: str
    path: Path
    split: str
    source: str
    licence: str
    author: str
    box: CropBox | None = None
    lr_path: Path | None = None
    unread: str = ""
