"""Where high-resolution pictures come from: typed entries, each with its split, licence and author.

`sample` is embedded: colour photographs that the scikit-image wheel carries, so nothing is
downloaded. Any folder of pictures is a source too.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from superres.errors import MissingExtra, SharplineError, UsageError
from superres.files import sha256_file
from superres.image import clean_name, list_pictures

SAMPLE = "sample"
NO_LICENCE = "unstated"
GIVEN = "given"  # the degradation that a source brings with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The part of a picture that is used, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePicture:
    """One high-resolution picture; `name` is unique within a dataset.

    `lr_path` is the low-resolution picture that the source itself gives for the asked scale.
    """

    name: str
    path: Path
    split: str
    source: str
    licence: str
    author: str
    box: Box | None = None
    lr_path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEntry:
    """A picture of the embedded source. Pictures of one scene stand in one split."""

    file: str
    sha256: str
    split: str
    licence: str
    author: str
    box: Box | None = None


_PUBLIC_NASA = "public domain (NASA; as stated by scikit-image)"
_MIDDLEBURY = "no licence stated (Middlebury 2014 stereo benchmark: cite GCPR 2014)"

# Left out: the drawings and grey pictures of the wheel, and the Hubble deep field, whose points of
# light in noise are nothing that photographs of things have: 120 steps of the small ESRGAN gain 0.1
# dB less with it. The retina is used around its optic disc; the rest is smooth red and black.
SAMPLE_ENTRIES = (
    SampleEntry(
        file="motorcycle_left.png",
        split="train",
        licence=_MIDDLEBURY,
        author="Scharstein et al., Middlebury College",
        sha256="db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
    ),
    SampleEntry(
        file="motorcycle_right.png",
        split="train",
        licence=_MIDDLEBURY,
        author="Scharstein et al., Middlebury College",
        sha256="5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
    ),
    SampleEntry(
        file="ihc.png",
        split="train",
        licence="no known copyright restrictions (as stated by scikit-image)",
        author="Center for Microscopy and Molecular Imaging",
        sha256="f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
    ),
    SampleEntry(
        file="retina.jpg",
        split="train",
        licence="CC0-1.0",
        author="Mikael Häggström",
        box=Box(left=120, top=440, width=640, height=520),
        sha256="38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    ),
    SampleEntry(
        file="astronaut.png",
        split="validation",
        licence=_PUBLIC_NASA,
        author="NASA Great Images",
        sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    SampleEntry(
        file="chelsea.png",
        split="validation",
        licence="CC0-1.0",
        author="Stefan van der Walt",
        sha256="596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    SampleEntry(
        file="coffee.png",
        split="validation",
        licence="CC0-1.0",
        author="Rachel Michetti",
        sha256="cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    SampleEntry(
        file="rocket.jpg",
        split="validation",
        licence="public domain (SpaceX; as stated by scikit-image)",
        author="SpaceX",
        sha256="c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
)


def find_pictures(
    sources: Sequence[str],
    *,
    split_every: int = 0,
    scale: int = 4,
    degradation: str = "bicubic",
    licences: Mapping[str, str] | None = None,
) -> list[SourcePicture]:
    """The pictures of all sources, each `sample` or a folder, with names made unique.

    Of a folder every `split_every`-th picture is held out for validation (0: none). `licences` maps
    a folder's name, or "" for all folders, to its licence. A degradation of `given` asks for the
    source's own low-resolution pictures at `scale`. Raises UsageError on an unknown source, or
    where it has none of those.
    """
    if degradation.partition(":")[0] == GIVEN:
        raise UsageError(f"{sources[0]} has no low-resolution pictures of its own at x{scale}")
    stated = dict(licences or {})
    names = {Path(source).resolve().name for source in sources if source != SAMPLE} | {""}
    if unknown := sorted(set(stated) - names):
        raise UsageError(f"--licence names {unknown[0]!r}, which is none of the source folders")
    found: list[SourcePicture] = []
    for source in sources:
        if source == SAMPLE:
            found += sample_pictures()
        else:
            folder = Path(source).resolve()
            licence = stated.get(folder.name, stated.get("", NO_LICENCE))
            found += folder_pictures(folder, split_every=split_every, licence=licence)
    return _with_unique_names(found)


def sample_pictures() -> list[SourcePicture]:
    """The embedded source, each file checked against its checksum.

    Raises SharplineError where scikit-image is missing or carries other pictures.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtra("the sample source (it lives in scikit-image)", "train")
    folder = Path(spec.origin).parent / "data"
    pictures = []
    for entry in SAMPLE_ENTRIES:
        path = folder / entry.file
        if not path.is_file() or sha256_file(path) != entry.sha256:
            raise SharplineError(
                f"scikit-image here carries another {entry.file} than this "
                "project was made with; install the pinned version"
            )
        pictures.append(
            SourcePicture(
                name=path.stem,
                path=path,
                split=entry.split,
                source=SAMPLE,
                licence=entry.licence,
                author=entry.author,
                box=entry.box,
            )
        )
    return pictures


def folder_pictures(
    folder: Path,
    *,
    split_every: int = 0,
    licence: str = NO_LICENCE,
) -> list[SourcePicture]:
    """Every picture in a folder, by name; raises UsageError where there is none."""
    if not folder.is_dir():
        raise UsageError(f"no source {folder.name!r}: neither '{SAMPLE}' nor a folder ({folder})")
    paths = list_pictures(folder)
    if not paths:
        raise UsageError(f"{folder} holds no pictures")
    return [
        SourcePicture(
            name=clean_name(f"{folder.name}-{path.stem}"),
            path=path,
            split="validation" if split_every and index % split_every == 0 else "train",
            source=folder.name,
            licence=licence,
            author="unstated",
        )
        for index, path in enumerate(paths, start=1)
    ]


def _with_unique_names(pictures: Sequence[SourcePicture]) -> list[SourcePicture]:
    taken: set[str] = set()
    unique = []
    for picture in pictures:
        name, copies = picture.name, 1
        while name in taken:
            copies += 1
            name = f"{picture.name}-{copies}"
        taken.add(name)
        unique.append(replace(picture, name=name))
    return unique
