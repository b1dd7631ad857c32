"""The model bundle: a folder with everything needed to run, verify and trace one model.

`weights.safetensors`, `golden/input.png`, `golden/output.png`, `MODEL_CARD.md` and `bundle.json`,
which lists them with their sha256. The bundle's id is the sha256 of bundle.json, so any changed
byte is another bundle. Nothing in it is executable: no pickle, no code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes, sha256_file, staged_folder, write_bytes
from superres.image.codecs import Picture, encode, read
from superres.model.tiling import Geometry

FORMAT_VERSION = 1
INFO_FILE = "bundle.json"
WEIGHTS_FILE = "weights.safetensors"
GOLDEN_INPUT = "golden/input.png"
GOLDEN_OUTPUT = "golden/output.png"
CARD_FILE = "MODEL_CARD.md"


class BrokenBundle(SharplineError):
    """A folder that is not a bundle, or whose files have changed."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arch(_FrozenModel):
    """A network of `superres.model.archs` and the parameters of its constructor.

    `package` are name and version of the package that provides the network, None for our own.
    """

    name: str
    parameters: dict[str, Any]
    package: str | None = None


class Bounds(_FrozenModel):
    """Largest measured errors against the canonical output, in grey levels of 255.

    `seam_levels` is of tiled against whole-picture inference; `precision_levels` holds, per reduced
    precision, the level that 99.9% of the values stay within. `pictures` is the number of measured
    pictures, None in older bundles.
    """

    seam_levels: float
    precision_levels: dict[str, float] = Field(default_factory=dict)
    pictures: int | None = None


class Dataset(_FrozenModel):
    """A dataset that a model was trained on."""

    id: str
    source: str
    licence: str


class FeatureStats(_FrozenModel):
    """The distribution of a feature over the training inputs."""

    mean: float
    std: float
    p05: float
    p50: float
    p95: float


class Training(_FrozenModel):
    """How the weights were trained; `reference` holds the feature distribution of the inputs.

    `start` says which tensors were loaded from other weights and which were not, `losses` are the
    training losses. Fine-tunes add to `datasets`, so a source may occur more than once.
    """

    datasets: tuple[Dataset, ...]
    degradation: str
    reference: dict[str, FeatureStats]
    steps: int
    seconds: float
    device: str
    parent: str | None = None
    start: str | None = None
    losses: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The unique sources of the datasets, in training order."""
        return tuple(dict.fromkeys(dataset.source for dataset in self.datasets))

    @property
    def is_adversarial(self) -> bool:
        """Whether it was trained against a discriminator: such a model is evaluated by other
        metrics, because its generated texture lowers PSNR."""
        return "gan" in self.losses


class BundleScore(_FrozenModel):
    """Mean PSNR and SSIM under one protocol, and those of bicubic enlargement."""

    protocol: dict[str, str | int]
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float


class Licence(_FrozenModel):
    """The licence of the weights, considering the training data's."""

    weights: str
    lineage: tuple[str, ...]
    commercial_use: Literal["yes", "no", "unclear"]


class BundleInfo(_FrozenModel):
    """The content of bundle.json; lengths are in low-resolution pixels."""

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    task: str
    scale: int = Field(ge=1, le=8)
    arch: Arch
    halo: int = Field(ge=0)
    size_multiple: int = Field(ge=1)
    window: int | None
    tile_buckets: tuple[tuple[int, int], ...] = Field(min_length=1)
    bounds: Bounds
    training: Training
    scores: tuple[BundleScore, ...]
    licence: Licence
    git_commit: str | None
    mlflow_run: str | None
    created: str
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def geometry(self) -> Geometry:
        """The tiling geometry."""
        return Geometry(
            scale=self.scale,
            halo=self.halo,
            size_multiple=self.size_multiple,
            window=self.window,
            buckets=self.tile_buckets,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle on disk."""

    root: Path
    info: BundleInfo
    id: str

    def weights(self) -> dict[str, NDArray[Any]]:
        """Every tensor by its state-dict key."""
        from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType] - untyped

        return load_file(self.root / WEIGHTS_FILE)

    def card(self) -> str:
        """The model card, Markdown."""
        return (self.root / CARD_FILE).read_text(encoding="utf-8")

    def golden(self) -> tuple[Picture, Picture]:
        """A small input and the model's output for it when the bundle was made."""
        return read(self.root / GOLDEN_INPUT), read(self.root / GOLDEN_OUTPUT)


def load_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Open a bundle folder; with `verify` the sha256 of every file is checked.

    Raises BrokenBundle naming the file that is missing, changed, unlisted or invalid.
    """
    info_path = path / INFO_FILE
    if not info_path.is_file():
        raise BrokenBundle(f"{path} is not a model bundle: it has no {INFO_FILE}")
    raw = info_path.read_bytes()
    try:
        info = BundleInfo.model_validate(json.loads(raw))
        _ = info.geometry
    except (ValueError, ValidationError) as error:
        raise BrokenBundle(
            f"{info_path} is not a description that this version reads: {error}"
        ) from error
    if verify:
        _verify(path, info.files)
    return Bundle(root=path, info=info, id=sha256_bytes(raw))


def _verify(root: Path, files: Mapping[str, str]) -> None:
    for name in (WEIGHTS_FILE, GOLDEN_INPUT, GOLDEN_OUTPUT, CARD_FILE):
        if name not in files:
            raise BrokenBundle(f"{root / INFO_FILE} does not list {name}")
    for name, expected in files.items():
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise BrokenBundle(f"{root / INFO_FILE} lists a file outside the bundle: {name}")
        if not path.is_file():
            raise BrokenBundle(f"{path} is missing; fetch or build the bundle again")
        if sha256_file(path) != expected:
            raise BrokenBundle(
                f"{path} is not the file that was published (its sha256 differs); "
                "fetch or build the bundle again"
            )
    present = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    extra = present - set(files) - {INFO_FILE}
    if extra:
        raise BrokenBundle(f"{root} holds files that it does not list: {', '.join(sorted(extra))}")


def write_bundle(
    folder: Path,
    draft: BundleInfo,
    weights: Mapping[str, NDArray[Any]],
    golden_input: Picture,
    golden_output: Picture,
    card: str,
) -> Bundle:
    """Write a bundle atomically, filling in `draft`'s list of files; returns the loaded bundle."""
    from safetensors.numpy import save

    contents = {
        WEIGHTS_FILE: save({key: np.ascontiguousarray(value) for key, value in weights.items()}),
        GOLDEN_INPUT: encode(golden_input, "png"),
        GOLDEN_OUTPUT: encode(golden_output, "png"),
        CARD_FILE: card.encode(),
    }
    files = {name: sha256_bytes(data) for name, data in contents.items()}
    info = draft.model_copy(update={"files": files})
    with staged_folder(folder) as staging:
        for name, data in contents.items():
            write_bytes(staging / name, data)
        text = json.dumps(info.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
        write_bytes(staging / INFO_FILE, text.encode())
    return load_bundle(folder)
