"""The output file of each input picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from superres.common.errors import SharplineError
from superres.image.codecs import (
    FORMAT_SUFFIXES,
    PICTURE_SUFFIXES,
    SUFFIX_FORMATS,
    list_pictures,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """An input picture and its output file."""

    source: Path
    target: Path


def plan_files(
    inputs: Iterable[Path], out: Path, format: str | None, *, overwrite: bool
) -> list[PlannedFile]:
    """Plan the output file of each input picture. Raises SharplineError before any work is done."""
    files: dict[Path, PlannedFile] = {}
    for entry in inputs:
        if not entry.exists():
            raise SharplineError(f"{entry} does not exist")
        for source in list_pictures(entry) if entry.is_dir() else [entry]:
            target = out / (source.stem + _suffix(source, format))
            if target in files:
                raise SharplineError(
                    f"{files[target].source} and {source} would both become {target}; "
                    "enlarge them into different folders"
                )
            if target.resolve() == source.resolve():
                raise SharplineError(
                    f"{source} would be overwritten by its own output; choose another OUT_FOLDER"
                )
            if target.exists() and not overwrite:
                raise SharplineError(f"{target} already exists; use --overwrite to replace it")
            files[target] = PlannedFile(source=source, target=target)
    if not files:
        raise SharplineError(f"no pictures found (looked for {', '.join(PICTURE_SUFFIXES)})")
    return list(files.values())


def _suffix(source: Path, format: str | None) -> str:
    if format is None:
        return source.suffix if source.suffix.lower() in SUFFIX_FORMATS else ".png"
    if SUFFIX_FORMATS.get(source.suffix.lower()) == format:
        return source.suffix
    return FORMAT_SUFFIXES[format]
