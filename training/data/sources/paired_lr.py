"""Low-resolution pictures that a source brings with it, found by their names."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from superres.image.codecs import list_pictures
from training.data.sources.picture import SourcePicture

LR_SUFFIX = re.compile(r"x\d+[a-z]?\d?$")  # 0001x4 belongs to 0001, and so do 0001x4m, 0001x4w1


def with_paired_lr(pictures: Sequence[SourcePicture], folder: Path | None) -> list[SourcePicture]:
    """Each picture with its low-resolution twin: 0001x4.png, 0001x4m.png or 0001.png of 0001.png.

    Of several twins the first by name; a twin that is missing is named where it would have been.
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
    """Pictures of `lr_folder` that belong to none in `folder`."""
    stems = {path.stem for path in list_pictures(folder)}
    return [path for path in list_pictures(lr_folder) if not {path.stem, paired_stem(path)} & stems]


def paired_stem(path: Path) -> str:
    """The stem of the picture that a low-resolution one belongs to."""
    return LR_SUFFIX.sub("", path.stem)
