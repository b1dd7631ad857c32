"""Lists all sources and their local state, for `sharpline data list`."""

from dataclasses import asdict, dataclass
from typing import Literal

from superres.common.console import format_bytes
from superres.image.codecs import list_pictures
from training.data.sources.catalogue import read_catalogue
from training.data.sources.entries import HR, Entry
from training.data.sources.records import AddedSource, FetchedSource, read_records, sources_folder
from training.data.sources.sample import SAMPLE, SAMPLE_ENTRIES

State = Literal["embedded", "fetched", "partial", "not fetched", "added"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSource:
    """A source in the list.

    `available`: datasets can be built from it now. `pictures` counts the HR pictures; for a source
    that is not fetched, it and `bytes` (to download) are as published, None where unpublished.
    `parts` are the local ones, in `folder`.
    """

    name: str
    kind: Literal["embedded", "catalogue", "added"]
    state: State
    available: bool
    watched: bool
    role: Literal["training", "benchmark"]
    pictures: int | None
    bytes: int | None
    licence: str
    parts: list[str]
    folder: str | None

    def as_dict(self) -> dict[str, object]:
        """The source as JSON."""
        return asdict(self)

    def line(self) -> str:
        """The source as a line of a table."""
        pictures = "?" if self.pictures is None else f"{self.pictures:,}"
        size = "" if self.bytes is None else format_bytes(self.bytes)
        state = f"{self.state}, watched" if self.watched else self.state
        parts = "" if self.parts in ([], [HR]) else f" [{', '.join(self.parts)}]"
        what = "benchmark; " if self.role == "benchmark" else ""
        return (
            f"{self.name:<14}{state:<16}{pictures:>7} pictures {size:>9}  "
            f"{what}{self.licence}{parts}"
        )


def list_sources() -> list[ListedSource]:
    """`sample`, then the catalogue, then own folders by name."""
    records = {record.name: record for record in read_records()}
    fetched = {
        name: record for name, record in records.items() if isinstance(record, FetchedSource)
    }
    added = [record for record in records.values() if isinstance(record, AddedSource)]
    catalogue = read_catalogue()
    uncatalogued = [record for name, record in fetched.items() if name not in catalogue]
    return [
        _sample(),
        *(_catalogued(entry, fetched.get(entry.name)) for entry in catalogue.values()),
        *(_fetched(record, state="fetched") for record in uncatalogued),
        *(_added(record) for record in added),
    ]


def _sample() -> ListedSource:
    return ListedSource(
        name=SAMPLE,
        kind="embedded",
        state="embedded",
        available=True,
        watched=False,
        role="training",
        pictures=len(SAMPLE_ENTRIES),
        bytes=None,
        licence="each picture's own",
        parts=[HR],
        folder=None,
    )


def _catalogued(entry: Entry, record: FetchedSource | None) -> ListedSource:
    if record is not None:
        missing = [part for part in entry.choose([HR]) if not record.find(part.name, part.split)]
        return _fetched(record, state="partial" if missing else "fetched")
    hr_parts = entry.choose([HR])
    counts, sizes = [part.pictures for part in hr_parts], [part.download_bytes for part in hr_parts]
    return ListedSource(
        name=entry.name,
        kind="catalogue",
        state="not fetched",
        available=False,
        watched=False,
        role=entry.role,
        pictures=_sum(counts),
        bytes=_sum(sizes),
        licence=entry.licence,
        parts=[],
        folder=None,
    )


def _fetched(record: FetchedSource, state: State) -> ListedSource:
    hr_parts = [part for part in record.parts if part.part == HR]
    return ListedSource(
        name=record.name,
        kind="catalogue",
        state=state,
        available=state == "fetched",
        watched=False,
        role=record.role,
        pictures=sum(part.pictures for part in hr_parts),
        bytes=sum(part.bytes for part in record.parts),
        licence=record.licence,
        parts=sorted({part.part for part in record.parts}, key=lambda name: (name != HR, name)),
        folder=str(sources_folder() / record.name),
    )


def _added(record: AddedSource) -> ListedSource:
    paths = list_pictures(record.folder) if record.folder.is_dir() else []
    return ListedSource(
        name=record.name,
        kind="added",
        state="added",
        available=record.folder.is_dir(),
        watched=record.watched,
        role="training",
        pictures=len(paths),
        bytes=sum(path.stat().st_size for path in paths if path.is_file()),
        licence=record.terms.licence,
        parts=[HR] if record.lr_folder is None else [HR, f"lr_x{record.scale}"],
        folder=str(record.folder),
    )


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
