"""Finds the low-resolution pictures that a source provides, by their names."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from superres.image.codecs import list_pictures
from training.data.sources.picture import SourcePicture

LR_SUFFIX = re.compile(r"x\d+[a-z]?\d?$")  # 0001x4, 0001x4m and 0001x4w1 belong to 0001


def with_paired_lr(pictures: Sequence[SourcePicture], folder: Path | None) -> list[SourcePicture]:
    """Each picture with its paired LR: 0001x4.png, 0001x4m.png or 0001.png for 0001.png.

    Of several LR pictures the first by name is used; for a missing one `lr_path` is its expected
    path.
    """
    assert folder is not None
    paired: dict[str, Path] = {}
    for path in list_pictures(folder):
        paired.setdefault(paired_stem(path), path)
        paired.setdefault(path.stem, path)
    return [
        replace(picture, lr_path=paired.get(picture.path.stem, folder / picture.path.name))
        for picture in pictures
    ]


def unpaired_lr(folder: Path, lr_folder: Path) -> list[Path]:
    """Pictures of `lr_folder` that have no HR picture in `folder`."""
    stems = {path.stem for path in list_pictures(folder)}
    return [path for path in list_pictures(lr_folder) if not {path.stem, paired_stem(path)} & stems]


def paired_stem(path: Path) -> str:
    """The stem of the HR picture that an LR picture belongs to."""
    return LR_SUFFIX.sub("", path.stem)
