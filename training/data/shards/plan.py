"""What a dataset will be made of, decided before any pixel is touched.

The dataset's id is the hash of the pictures' bytes and the recipe, so it is known here: the same
pictures and recipe name the same dataset, on any machine and in any number of shards.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from superres.common.environment import cpu_threads
from superres.common.errors import SharplineError, UsageError
from superres.common.files import sha256_bytes, write_json
from superres.dataset.consent import ClientsPictures, refuse_clients_pictures
from superres.dataset.manifest import INFO_NAME, LeftOut
from superres.degrade import parse
from superres.image.codecs import Limits, PictureError, inspect
from superres.image.passport import earlier_passport
from training.data.sources.resolve import PROVIDED, Box, SourcePicture

# Raised whenever the same pictures and recipe would give other pairs, so that their id differs.
BUILD_VERSION = 4
MIN_LR_SIDE = 16
MIN_PER_SHARD, MAX_SHARDS = 8, 256
PLANS = ".plans"
BENCHMARK = "benchmark"  # the split of pictures that are compared with and never built


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecipe:
    """How HR pictures become pairs; a training picture is degraded `draws` times, others once."""

    scale: int
    degradation: str
    draws: int = 1


class PlannedPicture(BaseModel):
    """One picture of the plan: the bytes it had, where its pairs will stand, and a seed for each.

    `lr_path` and `lr_sha256` are those of the LR picture that the source gives, if it is used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str
    sha256: str
    split: str
    source: str
    licence: str
    author: str
    box: Box | None
    seeds: list[int]
    lr_path: str = ""
    lr_sha256: str = ""


class Plan(BaseModel):
    """A dataset to be: its id, its pictures and how they are dealt to shards.

    `references` are pictures, such as those of benchmarks, that no pair may show.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str
    scale: int
    degradation: str
    pictures: list[PlannedPicture]
    references: list[PlannedPicture]
    left_out: list[LeftOut]
    pictures_per_shard: int
    unchanged: bool

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-(len(self.pictures) + len(self.references)) // self.pictures_per_shard)

    def shard(self, index: int) -> list[PlannedPicture]:
        """The pictures of one shard, those to compare with at the very end."""
        start, stop = self.span(index)
        known = len(self.pictures)
        return [
            *self.pictures[start:stop],
            *self.references[max(0, start - known) : max(0, stop - known)],
        ]

    def span(self, index: int) -> tuple[int, int]:
        """Positions of a shard's first picture and behind its last."""
        start = index * self.pictures_per_shard
        return start, min(start + self.pictures_per_shard, len(self.pictures + self.references))

    def content(self) -> bytes:
        """What the id is the hash of: content and recipe, but not where the pictures lie."""
        content = {
            "version": BUILD_VERSION,
            "scale": self.scale,
            "degradation": self.degradation,
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

    Pictures that cannot be used are in the plan's left_out, each with its reason. No pair will show
    one of `references`. Raises UsageError on a recipe that makes no sense and SharplineError where
    no picture can be used.
    """
    recipe = _checked(recipe)
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
    unnamed = Plan(
        id="",
        source="+".join(dict.fromkeys(picture.source for picture in pictures)),
        scale=recipe.scale,
        degradation=recipe.degradation,
        # In an order of their own, so that a shard is the same whatever order they came in.
        pictures=sorted(planned, key=lambda picture: picture.name),
        references=sorted(compared, key=lambda picture: picture.name),
        left_out=left_out,
        pictures_per_shard=pictures_per_shard or _shard_size(len(planned) + len(compared)),
        unchanged=False,
    )
    dataset_id = identify(unnamed.content())
    unchanged = (root / dataset_id / INFO_NAME).is_file()
    plan = unnamed.model_copy(update={"id": dataset_id, "unchanged": unchanged})
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
        raise SharplineError(f"{path} is no plan; make one with `sharpline data plan`") from error


def is_provided_lr(degradation: str) -> bool:
    """Whether the LR pictures are the source's own instead of made here."""
    return degradation.partition(":")[0] == PROVIDED


def _checked(recipe: PairRecipe) -> PairRecipe:
    """The recipe with its degradation in the one spelling."""
    if recipe.draws < 1:
        raise UsageError(f"every picture is degraded at least once, not {recipe.draws} times")
    if is_provided_lr(recipe.degradation):
        if recipe.draws > 1:
            raise UsageError("the source gives each picture's LR once; leave --draws away")
        return recipe
    recipe = replace(recipe, degradation=parse(recipe.degradation).text)
    if recipe.degradation == "bicubic" and (recipe.scale == 1 or recipe.draws > 1):
        raise UsageError(
            "bicubic draws nothing and at scale 1 does nothing; choose another --degrade, "
            "or a scale above 1 and a single draw"
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
            f"x{recipe.scale}: {least} pixels a side at least",
        )
    made_by = earlier_passport(data)
    if made_by is not None:
        reason = f"{made_by.last.model} made it, as its passport says: a model's work is no truth"
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
    """A picture to compare with; raises SharplineError, for a leak check with holes is none."""
    try:
        data = _read(picture.path)
        inspect(data, Limits())
    except OSError as error:
        raise SharplineError(
            f"cannot compare with {picture.path}: {error.strerror}; put it right or take it away"
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
        raise OSError(0, "it is no file")
    return path.read_bytes()


def _seed(sha256: str, recipe: PairRecipe, draw: int) -> int:
    """Of one draw of one picture; the same however many draws follow."""
    key = f"{sha256} {recipe.scale} {recipe.degradation} {draw}"
    return int(sha256_bytes(key.encode())[:8], 16)
