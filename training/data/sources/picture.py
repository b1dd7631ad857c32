"""One picture that a source offers for training or comparison."""

from dataclasses import dataclass
from pathlib import Path

UNSTATED = "unstated"  # the author of own pictures: whoever adds them states a licence alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The part of a picture that is used, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePicture:
    """One high-resolution picture; `name` is unique within a dataset.

    `lr_path` is the low-resolution picture that the source itself gives for the asked scale; the
    file may be missing where the source forgot one. `unread`, where given, is why what lies at
    `path` is never read: it is there to be told of.
    """

    name: str
    path: Path
    split: str
    source: str
    licence: str
    author: str
    box: Box | None = None
    lr_path: Path | None = None
    unread: str = ""
