"""The records of local sources: `sources/NAME/source.json` in the state folder."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from superres.common.environment import state_folder
from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes, write_json

RECORD_NAME = "source.json"

VerifiedBy = Literal["published sha256", "published md5", "md5 of the pictures", "first use"]


class UsageTerms(BaseModel):
    """The licence and statement of rights under which pictures are used, by whom and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    licence: str
    statement: str
    by: str
    at: str


class AddedSource(BaseModel):
    """An own folder of pictures, which are not copied; `lr_folder` holds their paired LR.

    `earlier` are replaced terms of this name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    kind: Literal["added"] = "added"
    name: str
    role: Literal["training"] = "training"
    folder: Path
    lr_folder: Path | None
    scale: int | None
    watched: bool
    terms: UsageTerms
    earlier: list[UsageTerms] = []


class FetchedArchive(BaseModel):
    """A fetched archive: its checksum, how that was verified, and its URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str
    verified: VerifiedBy
    address: str


class FetchedPart(BaseModel):
    """The pictures of one part and split; `folder` is relative to the sources folder.

    `content_sha256` is the hash over every picture's name and bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    split: str
    folder: str
    pictures: int
    bytes: int
    content_sha256: str
    archives: list[FetchedArchive]
    at: str


class FetchedSource(BaseModel):
    """A source of the catalogue of which at least one part was fetched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    kind: Literal["fetched"] = "fetched"
    name: str
    role: Literal["training", "benchmark"]
    licence: str
    conditions: str
    authors: str
    parts: list[FetchedPart]

    @property
    def content_sha256(self) -> str:
        """The hash of all fetched pictures, independent of when and from where."""
        parts = sorted((part.folder, part.content_sha256) for part in self.parts)
        return sha256_bytes(json.dumps(parts).encode())

    def find(self, part: str, split: str) -> FetchedPart | None:
        """The record of one part and split, None where it was not fetched."""
        key = (part, split)
        return next((entry for entry in self.parts if (entry.part, entry.split) == key), None)


SourceRecord = Annotated[AddedSource | FetchedSource, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AddedSource | FetchedSource] = TypeAdapter(SourceRecord)


def sources_folder() -> Path:
    """The folder of fetched sources and all records; not created here."""
    return state_folder() / "sources"


def read_record(name: str) -> AddedSource | FetchedSource | None:
    """The record of the source `name`; None where there is none.

    Raises SharplineError where it is broken or of another version.
    """
    path = sources_folder() / name / RECORD_NAME
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise SharplineError(
            f"{path} cannot be read or is of another version of Sharpline; move its folder away "
            "and fetch or add the source again"
        ) from error


def read_records() -> list[AddedSource | FetchedSource]:
    """The records of all local sources, by name."""
    names = sorted(path.parent.name for path in sources_folder().glob(f"*/{RECORD_NAME}"))
    return [record for name in names if (record := read_record(name)) is not None]


def write_record(record: AddedSource | FetchedSource) -> None:
    """Write a source's record atomically."""
    write_json(sources_folder() / record.name / RECORD_NAME, record.model_dump(mode="json"))


def now() -> str:
    """The current time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
