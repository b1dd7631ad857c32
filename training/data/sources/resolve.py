"""Which pictures a source's name stands for.

A name is `sample`, one of the catalogue that has been fetched, or one that a folder was added as.
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
from training.data.sources.picture import UNSTATED, Box, SourcePicture
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
    "Box",
    "SourcePicture",
    "benchmark_pictures",
    "find_pictures",
    "sample_pictures",
]

PROVIDED = "given"  # the degradation that a source brings with it


class ProvidedLr(NamedTuple):
    """The low-resolution pictures asked of a source: of which track ("": any), at which scale."""

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

    Of a source without a validation split of its own one picture in `split_every` is held out (0:
    none), by the hash of its name: pictures that come later move none from one split to the other,
    so no model is measured on what an earlier one learned. A degradation `given` or `given:TRACK`
    asks for the low-resolution pictures that the sources bring with them at `scale`. Raises
    UsageError on a source that is not here or may not be trained on, and where it has none of
    those.
    """
    kind, _, track = degradation.partition(":")
    wanted = ProvidedLr(track, scale) if kind == PROVIDED else None
    found: list[SourcePicture] = []
    for source in dict.fromkeys(sources):
        found += _hold_out(_pictures_of(source, wanted), split_every)
    return _with_unique_names(found)


def benchmark_pictures() -> list[SourcePicture]:
    """The pictures of every benchmark that has been fetched: none of them may be in training."""
    fetched = (record for record in read_records() if isinstance(record, FetchedSource))
    return [
        picture
        for record in fetched
        if record.role == "benchmark"
        for picture in _fetched_pictures(record, wanted=None)
    ]


def _pictures_of(source: str, wanted: ProvidedLr | None) -> list[SourcePicture]:
    if source == SAMPLE:
        if wanted is not None:
            raise UsageError(f"{SAMPLE} brings no low-resolution pictures of its own")
        return sample_pictures()
    record = read_record(source) if Path(source).name == source else None
    record = record or (added_at(Path(source)) if Path(source).is_dir() else None)
    if isinstance(record, AddedSource):
        return _added_pictures(record, wanted)
    if record is None:
        raise UsageError(_not_here(source))
    if record.role == "benchmark":
        raise UsageError(
            f"{record.name} is a benchmark: what models are compared on is never trained on; use "
            f"`sharpline evaluate MODEL --on {sources_folder() / record.parts[0].folder}`"
        )
    return _fetched_pictures(record, wanted)


def _not_here(source: str) -> str:
    if source in read_catalogue():
        return f"{source} has not been fetched yet: run `sharpline data fetch {source}`"
    if Path(source).is_dir():
        return (
            f"{source} has not been added as a source; where you may train on its pictures, run\n  "
            + add_command(Path(source))
        )
    return f"there is no source {source!r}; `sharpline data list` shows those that there are"


def _added_pictures(record: AddedSource, wanted: ProvidedLr | None) -> list[SourcePicture]:
    for folder in (record.folder, record.lr_folder):
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"{folder}, a folder of {record.name}, is gone; put it back, or add the place "
                "where it is now under the same name, with --replace"
            )
        if folder is not None:
            refuse_clients_pictures(folder)
    if wanted is not None and (record.lr_folder is None or wanted != ProvidedLr("", record.scale)):
        has = "none" if record.lr_folder is None else f"those for x{record.scale}"
        raise UsageError(
            f"{record.name} has no low-resolution pictures for {wanted}: it was added with {has}"
        )
    pictures = _pictures_in(record.folder, record.name, "train", licence=record.terms.licence)
    if not pictures and not record.watched:  # into a watched folder pictures come when they come
        raise UsageError(f"{record.folder}, the folder of {record.name}, is empty by now")
    if wanted is not None:
        pictures = with_paired_lr(pictures, record.lr_folder)
    return [*pictures, *unread_in(record)]


def _fetched_pictures(record: FetchedSource, wanted: ProvidedLr | None) -> list[SourcePicture]:
    track = None if wanted is None else _provided_track(record, wanted)
    high = [part for part in record.parts if part.part == HR]
    if not high:
        raise UsageError(
            f"of {record.name} only low-resolution pictures are here; run "
            f"`sharpline data fetch {record.name}`"
        )
    pictures: list[SourcePicture] = []
    for part in high:
        found = _pictures_in(
            sources_folder() / part.folder,
            record.name,
            part.split,
            licence=record.licence,
            author=record.authors,
        )
        if track is not None:
            low = record.find(track, part.split)
            if low is None:
                raise UsageError(
                    f"{track} of {record.name} is not here for {part.split}; run "
                    f"`sharpline data fetch {record.name} --part {track}`"
                )
            found = with_paired_lr(found, sources_folder() / low.folder)
        pictures += found
    return pictures


def _provided_track(record: FetchedSource, wanted: ProvidedLr) -> str:
    """The name of the part that holds the asked low-resolution pictures."""
    here = sorted({part.part for part in record.parts} - {HR})
    fit = [
        part
        for part in here
        if part.endswith(f"_x{wanted.scale}") and part.startswith(wanted.track)
    ]
    if len(fit) == 1:
        return fit[0]
    if fit:
        tracks = " or ".join(f"--degrade {PROVIDED}:{part.partition('_')[0]}" for part in fit)
        raise UsageError(f"{record.name} has several low-resolution pictures; say {tracks}")
    entry = read_catalogue().get(record.name)
    offered = ", ".join(entry.part_names()[1:]) if entry is not None else ""
    raise UsageError(
        f"{record.name} has no low-resolution pictures for {wanted} here; here are: "
        f"{', '.join(here) or 'none'}; `sharpline data fetch {record.name} --part PART` brings: "
        f"{offered or 'none'}"
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
    """About one in `every` for validation, unless the source has a validation split of its own.

    Where the hashes choose none, the least of them does.
    """
    if not every or any(picture.split != "train" for picture in pictures):
        return list(pictures)
    places = [_place(picture) for picture in pictures if not picture.unread]
    chosen = {place for place in places if place % every == 0} or {min(places, default=0)}
    return [
        replace(picture, split="validation" if _place(picture) in chosen else "train")
        for picture in pictures
    ]


def _place(picture: SourcePicture) -> int:
    """A number from the picture's name less its suffix: one scene in two formats stays together."""
    return int(sha256_bytes(f"{picture.source}-{picture.path.stem}".encode())[:8], 16)


def _with_unique_names(pictures: Sequence[SourcePicture]) -> list[SourcePicture]:
    """Of a.jpg and a.png the second becomes a-png."""
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
