"""The embedded source: colour photographs from the scikit-image wheel.

Nothing is downloaded, so the pipeline runs on any machine; each file is checked against its
checksum.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from superres.common.errors import MissingExtra, SharplineError
from superres.common.files import sha256_file
from training.data.sources.picture import CropBox, SourcePicture

SAMPLE = "sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEntry:
    """A picture of the embedded source. Pictures of one scene are in one split."""

    file: str
    sha256: str
    split: str
    licence: str
    author: str
    box: CropBox | None = None


_PUBLIC_NASA = "public domain (NASA; as stated by scikit-image)"
_MIDDLEBURY = "no licence stated (Middlebury 2014 stereo benchmark: cite GCPR 2014)"

# Left out: the wheel's drawings and grey pictures, and the Hubble deep field, which is unlike other
# photographs: 120 steps of the small ESRGAN gain 0.1 dB less with it. The retina is cropped to its
# optic disc; the rest is smooth red and black.
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
        box=CropBox(left=120, top=440, width=640, height=520),
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


def sample_pictures() -> list[SourcePicture]:
    """The embedded source, each file checked against its checksum.

    Raises SharplineError where scikit-image is missing or has other pictures.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtra("the sample source (part of scikit-image)", "train")
    folder = Path(spec.origin).parent / "data"
    pictures = []
    for entry in SAMPLE_ENTRIES:
        path = folder / entry.file
        if not path.is_file() or sha256_file(path) != entry.sha256:
            raise SharplineError(
                f"the installed scikit-image has another {entry.file} than expected; install the "
                "pinned version"
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
