"""The plan of a dataset: its pictures and recipe, made before any pixel is read.

The dataset's id is the hash of the pictures' bytes and the recipe, so the plan already has it: the
same pictures and recipe give the same id, on any machine and in any number of shards.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from superres.common.environment import cpu_threads
from superres.common.errors import SharplineError, UsageError
from superres.common.files import sha256_bytes, write_json
from superres.dataset.consent import ClientsPictures, refuse_clients_pictures
from superres.dataset.manifest import INFO_NAME, LeftOut
from superres.degrade import DEGRADATIONS, parse
from superres.image.codecs import Limits, PictureError, inspect
from superres.image.passport import earlier_passport
from training.data.sources.resolve import PROVIDED, CropBox, SourcePicture

# Increased whenever the same pictures and recipe would give other pairs, so that the id changes.
BUILD_VERSION = 4
MIN_LR_SIDE = 16
MIN_PER_SHARD, MAX_SHARDS = 8, 256
PLANS = ".plans"
BENCHMARK = "benchmark"  # the split of reference pictures, which are compared with, never built


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecipe:
    """How HR pictures become pairs; a training picture is degraded `draws` times, others once."""

    scale: int
    degradation: str
    draws: int = 1


class PlannedPicture(BaseModel):
    """One picture of the plan: its file and hash, its metadata, and a seed per draw.

    `lr_path` and `lr_sha256` are those of the LR picture that the source provides, if it is used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str
    sha256: str
    split: str
    source: str
    licence: str
    author: str
    box: CropBox | None
    seeds: list[int]
    lr_path: str = ""
    lr_sha256: str = ""


class Plan(BaseModel):
    """The plan of a dataset: its id, its pictures and their split into shards.

    `references` are pictures, such as those of benchmarks, that no pair may repeat. `packages` are
    name and version of the packages that provide degradations, by degradation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str
    scale: int
    degradation: str
    packages: dict[str, str] = Field(default_factory=dict)
    pictures: list[PlannedPicture]
    references: list[PlannedPicture]
    left_out: list[LeftOut]
    pictures_per_shard: int
    unchanged: bool

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-(len(self.pictures) + len(self.references)) // self.pictures_per_shard)

    def shard(self, index: int) -> list[PlannedPicture]:
        """The pictures of one shard; reference pictures come after all others."""
        start, stop = self.span(index)
        count = len(self.pictures)
        return [
            *self.pictures[start:stop],
            *self.references[max(0, start - count) : max(0, stop - count)],
        ]

    def span(self, index: int) -> tuple[int, int]:
        """Start and stop (exclusive) positions of a shard's pictures."""
        start = index * self.pictures_per_shard
        return start, min(start + self.pictures_per_shard, len(self.pictures + self.references))

    def content(self) -> bytes:
        """The hashed content of the id: pictures and recipe, without the pictures' paths."""
        content = {
            "version": BUILD_VERSION,
            "scale": self.scale,
            "degradation": self.degradation,
            **({"packages": self.packages} if self.packages else {}),
            "pictures": [
                picture.model_dump(mode="json", exclude={"path", "lr_path"})
                for picture in self.pictures
            ],
            "compared_with": sorted(picture.sha256 for picture in self.references),
        }
        return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()


def make_plan(
    pictures: Sequence[SourcePicture],
    recipe: PairRecipe,
    root: Path,
    *,
    references: Sequence[SourcePicture] = (),
    pictures_per_shard: int | None = None,
) -> Path:
    """Write the plan of a dataset under `root` and return its path.

    Pictures that cannot be used are in the plan's left_out, each with its reason. No pair will
    repeat one of `references`. Raises UsageError on an invalid recipe and SharplineError where no
    picture can be used.
    """
    recipe = _normalised(recipe)
    with ThreadPoolExecutor(cpu_threads()) as pool:
        outcomes = list(pool.map(lambda picture: _examine(picture, recipe), pictures))
        compared = list(pool.map(_examine_reference, references))
    planned = [outcome for outcome in outcomes if isinstance(outcome, PlannedPicture)]
    left_out = [outcome for outcome in outcomes if isinstance(outcome, LeftOut)]
    if not planned:
        raise SharplineError(
            f"none of {len(pictures)} pictures can be used; "
            + (f"the first is {left_out[0].name}: {left_out[0].reason}" if left_out else "")
        )
    draft = Plan(
        id="",
        source="+".join(dict.fromkeys(picture.source for picture in pictures)),
        scale=recipe.scale,
        degradation=recipe.degradation,
        packages=_packages_of(recipe.degradation),
        # Sorted, so that shards do not depend on the order of the sources.
        pictures=sorted(planned, key=lambda picture: picture.name),
        references=sorted(compared, key=lambda picture: picture.name),
        left_out=left_out,
        pictures_per_shard=pictures_per_shard or _shard_size(len(planned) + len(compared)),
        unchanged=False,
    )
    dataset_id = identify(draft.content())
    unchanged = (root / dataset_id / INFO_NAME).is_file()
    plan = draft.model_copy(update={"id": dataset_id, "unchanged": unchanged})
    path = root / PLANS / dataset_id / "plan.json"
    write_json(path, plan.model_dump(mode="json"))
    return path


def identify(content: bytes) -> str:
    """A dataset's id: the first 16 hex digits of the hash of its content and recipe."""
    return sha256_bytes(content)[:16]


def read_plan(path: Path) -> Plan:
    """The plan at `path`; raises SharplineError where there is none."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SharplineError(
            f"{path} is not a plan; make one with `sharpline data plan`"
        ) from error


def require_packages(plan: Plan) -> None:
    """Raise SharplineError where a degradation's package is not the one of the plan."""
    for kind, package in plan.packages.items():
        installed = DEGRADATIONS.package(kind)
        if installed != package:
            raise SharplineError(
                f"the plan was made with the degradation {kind!r} of {package}, here it is of "
                f"{installed or 'no installed package'}: install that version, or plan again"
            )


def _packages_of(degradation: str) -> dict[str, str]:
    kinds = [] if is_provided_lr(degradation) else [kind for kind, _ in parse(degradation).weights]
    packages = {kind: DEGRADATIONS.package(kind) for kind in kinds}
    return {kind: package for kind, package in packages.items() if package is not None}


def is_provided_lr(degradation: str) -> bool:
    """Whether the source provides the LR pictures, instead of degrading its HR."""
    return degradation.partition(":")[0] == PROVIDED


def _normalised(recipe: PairRecipe) -> PairRecipe:
    """The recipe with its degradation in canonical spelling."""
    if recipe.draws < 1:
        raise UsageError(f"draws must be at least 1, not {recipe.draws}")
    if is_provided_lr(recipe.degradation):
        if recipe.draws > 1:
            raise UsageError("the source provides one LR per picture; omit --draws")
        return recipe
    recipe = replace(recipe, degradation=parse(recipe.degradation).text)
    if recipe.degradation == "bicubic" and (recipe.scale == 1 or recipe.draws > 1):
        raise UsageError(
            "bicubic has no random parameters and no effect at scale 1; choose another --degrade, "
            "or a scale above 1 and one draw"
        )
    return recipe


def _shard_size(pictures: int) -> int:
    return max(MIN_PER_SHARD, -(-pictures // MAX_SHARDS))


def _examine(picture: SourcePicture, recipe: PairRecipe) -> PlannedPicture | LeftOut:
    if picture.unread:
        return LeftOut(name=picture.name, reason=picture.unread)
    lr_sha256 = ""
    reading = picture.path
    try:
        refuse_clients_pictures(reading)
        data = _read(reading)
        header = inspect(data, Limits())
        if picture.lr_path is not None:
            reading = picture.lr_path
            refuse_clients_pictures(reading)
            lr_sha256 = sha256_bytes(_read(reading))
    except OSError as error:
        return LeftOut(name=picture.name, reason=f"cannot read {reading.name}: {error.strerror}")
    except (PictureError, ClientsPictures) as error:
        return LeftOut(name=picture.name, reason=str(error))
    least = MIN_LR_SIDE * recipe.scale
    if min(header.width, header.height) < least:
        return LeftOut(
            name=picture.name,
            reason=f"{header.width}x{header.height} is too small for "
            f"x{recipe.scale}: needs at least {least} pixels a side",
        )
    made_by = earlier_passport(data)
    if made_by is not None:
        reason = f"{made_by.last.model} made it, by its passport: model output is no ground truth"
        return LeftOut(name=picture.name, reason=reason)
    sha256 = sha256_bytes(data)
    draws = recipe.draws if picture.split == "train" else 1
    return _planned(
        picture,
        sha256=sha256,
        seeds=[_seed(sha256, recipe, draw) for draw in range(1, draws + 1)],
        lr_path=str(picture.lr_path or ""),
        lr_sha256=lr_sha256,
    )


def _examine_reference(picture: SourcePicture) -> PlannedPicture:
    """A planned reference picture; raises SharplineError where it cannot be read."""
    try:
        data = _read(picture.path)
        inspect(data, Limits())
    except OSError as error:
        raise SharplineError(
            f"cannot compare with {picture.path}: {error.strerror}; fix or remove it"
        ) from error
    except PictureError as error:
        raise SharplineError(f"cannot compare with {picture.path}: {error}") from error
    renamed = replace(picture, name=f"{picture.source}/{picture.name}", split=BENCHMARK)
    return _planned(renamed, sha256=sha256_bytes(data), seeds=[])


def _planned(picture: SourcePicture, **values: Any) -> PlannedPicture:
    return PlannedPicture(
        name=picture.name,
        path=str(picture.path),
        split=picture.split,
        source=picture.source,
        licence=picture.licence,
        author=picture.author,
        box=picture.box,
        **values,
    )


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError(0, "not a file")
    return path.read_bytes()


def _seed(sha256: str, recipe: PairRecipe, draw: int) -> int:
    """The seed of one draw of one picture; independent of the number of draws."""
    key = f"{sha256} {recipe.scale} {recipe.degradation} {draw}"
    return int(sha256_bytes(key.encode())[:8], 16)
