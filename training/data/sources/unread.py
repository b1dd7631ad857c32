"""Lists the picture files of an own folder that are not read, so that they are reported."""

import os
from pathlib import Path

from superres.image.codecs import PICTURE_SUFFIXES, clean_name
from training.data.sources.paired_lr import unpaired_lr
from training.data.sources.picture import UNSTATED, SourcePicture
from training.data.sources.records import AddedSource

# Formats of phones, cameras and editors that Sharpline does not read.
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".psb", ".xcf", ".svg", ".tga", ".exr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".ppm", ".pgm", ".hdr"),
)


def unread_in(record: AddedSource) -> list[SourcePicture]:
    """Files and folders that look like pictures but are not read, each with the reason."""
    files = sorted(record.folder.iterdir())
    reasons = {path: reason for path in files if (reason := _why_unread(path, record.lr_folder))}
    if record.lr_folder is not None:
        unpaired = unpaired_lr(record.folder, record.lr_folder)
        reasons |= dict.fromkeys(
            unpaired, "a low-resolution picture without its high-resolution one"
        )
    return [
        SourcePicture(
            name=clean_name(f"{record.name}-{path.name}"),
            path=path,
            split="train",
            source=record.name,
            licence=record.terms.licence,
            author=UNSTATED,
            unread=reason,
        )
        for path, reason in reasons.items()
    ]


def _why_unread(path: Path, lr_folder: Path | None) -> str:
    suffix = path.suffix.lower()
    if path.name.startswith(".") or path == lr_folder or suffix in PICTURE_SUFFIXES:
        return ""
    if suffix in OTHER_SUFFIXES:
        return f"{suffix} files are not read; convert it to PNG or TIFF"
    if path.is_dir() and _holds_pictures(path):
        return "a folder: the pictures in it are not read; add it as a source of its own"
    return ""


def _holds_pictures(folder: Path) -> bool:
    suffixes = {*PICTURE_SUFFIXES, *OTHER_SUFFIXES}
    return any(
        Path(file).suffix.lower() in suffixes for _, _, files in os.walk(folder) for file in files
    )
