"""Resolves the name of a source to its pictures.

A name is `sample`, a fetched source of the catalogue, or an added folder.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from superres.common.errors import UsageError
from superres.common.files import sha256_bytes
from superres.dataset.consent import refuse_clients_pictures
from superres.image.codecs import clean_name, list_pictures
from training.data.sources.catalogue import read_catalogue
from training.data.sources.entries import HR
from training.data.sources.own import add_command, added_at
from training.data.sources.paired_lr import with_paired_lr
from training.data.sources.picture import UNSTATED, CropBox, SourcePicture
from training.data.sources.records import (
    AddedSource,
    FetchedSource,
    read_record,
    read_records,
    sources_folder,
)
from training.data.sources.sample import SAMPLE, sample_pictures
from training.data.sources.unread import unread_in

__all__ = [
    "CropBox",
    "SourcePicture",
    "benchmark_pictures",
    "find_pictures",
    "sample_pictures",
]

PROVIDED = "given"  # the degradation kind of LR pictures that the source provides


class ProvidedLr(NamedTuple):
    """A request for the LR pictures that a source provides: track ("": any) and scale."""

    track: str
    scale: int | None

    def __str__(self) -> str:
        return f"{self.track} x{self.scale}".strip()


def find_pictures(
    sources: Sequence[str],
    *,
    split_every: int = 0,
    scale: int = 4,
    degradation: str = "bicubic",
) -> list[SourcePicture]:
    """The pictures of all sources, with names made unique.

    Sources without a validation split hold out one picture in `split_every` (0: none) by the hash
    of its name: added pictures never move others between the splits, so no model is evaluated on
    what an earlier one was trained on. A degradation `given` or `given:TRACK` selects the LR
    pictures that the sources provide at `scale`. Raises UsageError on a source that is not local
    or may not be trained on, and where it provides no such LR pictures.
    """
    kind, _, track = degradation.partition(":")
    provided = ProvidedLr(track, scale) if kind == PROVIDED else None
    found: list[SourcePicture] = []
    for source in dict.fromkeys(sources):
        found += _hold_out(_pictures_of(source, provided), split_every)
    return _with_unique_names(found)


def benchmark_pictures() -> list[SourcePicture]:
    """The pictures of every fetched benchmark, which must not be trained on."""
    fetched = (record for record in read_records() if isinstance(record, FetchedSource))
    return [
        picture
        for record in fetched
        if record.role == "benchmark"
        for picture in _fetched_pictures(record, provided=None)
    ]


def _pictures_of(source: str, provided: ProvidedLr | None) -> list[SourcePicture]:
    if source == SAMPLE:
        if provided is not None:
            raise UsageError(f"{SAMPLE} provides no low-resolution pictures")
        return sample_pictures()
    record = read_record(source) if Path(source).name == source else None
    record = record or (added_at(Path(source)) if Path(source).is_dir() else None)
    if isinstance(record, AddedSource):
        return _added_pictures(record, provided)
    if record is None:
        raise UsageError(_not_here(source))
    if record.role == "benchmark":
        raise UsageError(
            f"{record.name} is a benchmark, which is never trained on; use "
            f"`sharpline evaluate MODEL --on {sources_folder() / record.parts[0].folder}`"
        )
    return _fetched_pictures(record, provided)


def _not_here(source: str) -> str:
    if source in read_catalogue():
        return f"{source} has not been fetched yet: run `sharpline data fetch {source}`"
    if Path(source).is_dir():
        return (
            f"{source} has not been added as a source; if you may train on its pictures, run\n  "
            + add_command(Path(source))
        )
    return f"there is no source {source!r}; see `sharpline data list`"


def _added_pictures(record: AddedSource, provided: ProvidedLr | None) -> list[SourcePicture]:
    for folder in (record.folder, record.lr_folder):
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"{folder}, a folder of {record.name}, is missing; restore it, or add its new "
                "path under the same name with --replace"
            )
        if folder is not None:
            refuse_clients_pictures(folder)
    if provided is not None and (
        record.lr_folder is None or provided != ProvidedLr("", record.scale)
    ):
        has = "none" if record.lr_folder is None else f"those for x{record.scale}"
        raise UsageError(
            f"{record.name} has no low-resolution pictures for {provided}: it was added with {has}"
        )
    pictures = _pictures_in(record.folder, record.name, "train", licence=record.terms.licence)
    if not pictures and not record.watched:  # a watched folder may still be empty
        raise UsageError(f"{record.folder}, the folder of {record.name}, is empty")
    if provided is not None:
        pictures = with_paired_lr(pictures, record.lr_folder)
    return [*pictures, *unread_in(record)]


def _fetched_pictures(record: FetchedSource, provided: ProvidedLr | None) -> list[SourcePicture]:
    track = None if provided is None else _provided_track(record, provided)
    hr_parts = [part for part in record.parts if part.part == HR]
    if not hr_parts:
        raise UsageError(
            f"only low-resolution pictures of {record.name} were fetched; run "
            f"`sharpline data fetch {record.name}`"
        )
    pictures: list[SourcePicture] = []
    for part in hr_parts:
        found = _pictures_in(
            sources_folder() / part.folder,
            record.name,
            part.split,
            licence=record.licence,
            author=record.authors,
        )
        if track is not None:
            lr_part = record.find(track, part.split)
            if lr_part is None:
                raise UsageError(
                    f"{track} of {record.name} was not fetched for {part.split}; run "
                    f"`sharpline data fetch {record.name} --part {track}`"
                )
            found = with_paired_lr(found, sources_folder() / lr_part.folder)
        pictures += found
    return pictures


def _provided_track(record: FetchedSource, provided: ProvidedLr) -> str:
    """The name of the part that holds the requested LR pictures."""
    available = sorted({part.part for part in record.parts} - {HR})
    matching = [
        part
        for part in available
        if part.endswith(f"_x{provided.scale}") and part.startswith(provided.track)
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        tracks = " or ".join(f"--degrade {PROVIDED}:{part.partition('_')[0]}" for part in matching)
        raise UsageError(f"{record.name} has several low-resolution tracks; use {tracks}")
    entry = read_catalogue().get(record.name)
    offered = ", ".join(entry.part_names()[1:]) if entry is not None else ""
    raise UsageError(
        f"{record.name} has no low-resolution pictures for {provided}; fetched: "
        f"{', '.join(available) or 'none'}; `sharpline data fetch {record.name} --part PART` "
        f"offers: {offered or 'none'}"
    )


def _pictures_in(
    folder: Path, source: str, split: str, *, licence: str, author: str = UNSTATED
) -> list[SourcePicture]:
    return [
        SourcePicture(
            name=clean_name(f"{source}-{path.stem}"),
            path=path,
            split=split,
            source=source,
            licence=licence,
            author=author,
        )
        for path in list_pictures(folder)
    ]


def _hold_out(pictures: Sequence[SourcePicture], every: int) -> list[SourcePicture]:
    """Hold out about one in `every` for validation, unless the source has its own split.

    Where no hash selects a picture, the smallest one does.
    """
    if not every or any(picture.split != "train" for picture in pictures):
        return list(pictures)
    hashes = [_name_hash(picture) for picture in pictures if not picture.unread]
    chosen = {name_hash for name_hash in hashes if name_hash % every == 0} or {
        min(hashes, default=0)
    }
    return [
        replace(picture, split="validation" if _name_hash(picture) in chosen else "train")
        for picture in pictures
    ]


def _name_hash(picture: SourcePicture) -> int:
    """The hash of the name without suffix, so that a.png and a.jpg are in the same split."""
    return int(sha256_bytes(f"{picture.source}-{picture.path.stem}".encode())[:8], 16)


def _with_unique_names(pictures: Sequence[SourcePicture]) -> list[SourcePicture]:
    """Make names unique: of a.jpg and a.png the second becomes a-png."""
    taken: set[str] = set()
    unique = []
    for picture in pictures:
        name, copies = picture.name, 1
        if name in taken:
            name = clean_name(f"{name}-{picture.path.suffix.lstrip('.').lower()}")
        base = name
        while name in taken:
            copies += 1
            name = f"{base}-{copies}"
        taken.add(name)
        unique.append(replace(picture, name=name))
    return unique
