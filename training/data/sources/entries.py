"""Models of catalogue entries: archives, the parts in them, licence and conditions."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from superres.common.errors import UsageError

HR, ALL = "hr", "all"

# Names that become file names: no path separators, no leading dot.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$")]


class Archive(BaseModel):
    """One file to download, from any of its mirrors; size and checksums where published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FileName
    mirrors: tuple[str, ...] = ()
    bytes: int | None = None
    sha256: Hex | None = None
    md5: Hex | None = None


class Copy(BaseModel):
    """One way to get the pictures of a part: the archives, and the folder in them.

    `folder` is the folder in the archive, or a shell pattern for several. `pictures_md5` is the
    published md5 over the hex md5s of the pictures in the order of their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    archives: tuple[Archive, ...]
    folder: str
    pictures_md5: Hex | None = None


class Part(BaseModel):
    """Pictures of one split: the HR ones, or those of one low-resolution track and scale.

    `pictures` is their number (None: unknown). The first of `copies` that works is used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["train", "validation"]
    track: FileName | None = None
    scale: int = 1
    pictures: int | None
    copies: tuple[Copy, ...]

    @property
    def name(self) -> str:
        """`hr`, or track and scale: `bicubic_x4`."""
        return HR if self.track is None else f"{self.track}_x{self.scale}"

    @property
    def download_bytes(self) -> int | None:
        """The total size of the first copy's archives, None where it is not published."""
        sizes = [archive.bytes for archive in self.copies[0].archives]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class Entry(BaseModel):
    """A source: its authors, its licence and conditions, and its parts.

    Models are compared on benchmarks, so those are never trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FileName
    title: str
    authors: str
    licence: str
    conditions: str
    role: Literal["training", "benchmark"] = "training"
    parts: tuple[Part, ...]

    def part_names(self) -> list[str]:
        """The names of the parts, each once, in the entry's order."""
        return list(dict.fromkeys(part.name for part in self.parts))

    def choose(self, names: Sequence[str]) -> list[Part]:
        """The parts of these names; a name is a part, a track (all its scales) or `all`.

        Raises UsageError on an unknown name.
        """
        tracks = {part.track for part in self.parts if part.track is not None}
        for name in names:
            if name not in {*self.part_names(), *tracks, ALL}:
                raise UsageError(
                    f"{self.name} has no part {name!r}; it has {', '.join(self.part_names())} "
                    f"and {ALL}"
                )
        return [part for part in self.parts if ALL in names or {part.name, part.track} & set(names)]
