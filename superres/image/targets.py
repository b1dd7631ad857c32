"""Which file the answer of each input picture goes to."""

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
    """A picture and the file that its answer goes to."""

    source: Path
    target: Path


def plan_files(
    inputs: Iterable[Path], out: Path, format: str | None, *, overwrite: bool
) -> list[PlannedFile]:
    """Each input picture with its target. Raises SharplineError before any work is done."""
    files: dict[Path, PlannedFile] = {}
    for given in inputs:
        if not given.exists():
            raise SharplineError(f"{given} does not exist")
        for source in list_pictures(given) if given.is_dir() else [given]:
            target = out / (source.stem + _suffix(source, format))
            if target in files:
                raise SharplineError(
                    f"{files[target].source} and {source} would both become {target}; "
                    "enlarge them into different folders"
                )
            if target.resolve() == source.resolve():
                raise SharplineError(
                    f"{source} would be overwritten by its own answer; choose another OUT_FOLDER"
                )
            if target.exists() and not overwrite:
                raise SharplineError(f"{target} is there already; give --overwrite to replace it")
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
