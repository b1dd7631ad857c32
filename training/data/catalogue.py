"""What a public set of pictures is, and how a folder of Sharpline may add sets of its own."""

from collections.abc import Sequence
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter

from superres.errors import SharplineError, UsageError
from training.data.records import sources_folder

HR, ALL = "hr", "all"
OWN_CATALOGUE = "catalogue.yaml"

# Names that become file names, so they hold nothing that a path could be made of.
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
    """A way to get the pictures of a part: all of these archives, and where in them they lie.

    `folder` is the folder in the archive, or a shell pattern for several. `pictures_md5` is the
    published md5 over the hex md5s of the pictures in the order of their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    archives: tuple[Archive, ...]
    folder: str
    pictures_md5: Hex | None = None


class Part(BaseModel):
    """Pictures of one split: the HR ones, or those of one low-resolution track and scale.

    `pictures` is how many there are (None: not known). The first of `copies` that works is used.
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
        """What the first copy's archives weigh together, None where that is not published."""
        sizes = [archive.bytes for archive in self.copies[0].archives]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class Entry(BaseModel):
    """A source: who made it, what may be done with it, and its parts.

    A benchmark is what models are compared on, so it is never trained on.
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
        """The parts of these names: a part's, a track's for all its scales, or `all`.

        Raises UsageError on a name that is none of them.
        """
        tracks = {part.track for part in self.parts if part.track is not None}
        for name in names:
            if name not in {*self.part_names(), *tracks, ALL}:
                raise UsageError(
                    f"{self.name} has no part {name!r}; it has {', '.join(self.part_names())} "
                    f"and {ALL}"
                )
        return [part for part in self.parts if ALL in names or {part.name, part.track} & set(names)]


def read_catalogue() -> dict[str, Entry]:
    """Every entry by name: the public sets, and those of `catalogue.yaml` beside the sources.

    An own entry takes the place of the public one of its name. Raises SharplineError where the
    file breaks the form of an entry.
    """
    from training.data.public import PUBLIC

    return {entry.name: entry for entry in (*PUBLIC, *_own_entries())}


def _own_entries() -> list[Entry]:
    path = sources_folder() / OWN_CATALOGUE
    try:
        written = yaml.safe_load(path.read_text())
        return TypeAdapter(list[Entry]).validate_python(written or [])
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SharplineError(f"{path} is not a list of catalogue entries: {error}") from error
