"""What a dataset will be made of, decided before any pixel is touched.

The dataset's id is the hash of the pictures' bytes and the recipe, so it is known here: the same
pictures and recipe name the same dataset, on any machine and in any number of shards.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from superres.degrade import parse
from superres.errors import SharplineError
from superres.files import sha256_bytes, write_json
from superres.image import Limits, PictureError, inspect
from superres.manifest import INFO_NAME, LeftOut
from training.data.sources import Box, SourcePicture

# Raised whenever the same pictures and recipe would give other pairs, so that their id differs.
BUILD_VERSION = 1
MIN_LR_SIDE = 16
PICTURES_PER_SHARD = 8
PLANS = ".plans"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecipe:
    """How HR pictures become pairs."""

    scale: int
    degradation: str


class PlannedPicture(BaseModel):
    """One picture of the plan: the bytes it had, and where its pair will stand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str
    sha256: str
    split: str
    source: str
    licence: str
    author: str
    box: Box | None
    seed: int


class Plan(BaseModel):
    """A dataset to be: its id, its pictures and how they are dealt to shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str
    scale: int
    degradation: str
    pictures: list[PlannedPicture]
    left_out: list[LeftOut]
    pictures_per_shard: int
    unchanged: bool

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-len(self.pictures) // self.pictures_per_shard)

    def shard(self, index: int) -> list[PlannedPicture]:
        """The pictures of one shard."""
        start = index * self.pictures_per_shard
        return self.pictures[start : start + self.pictures_per_shard]


def make_plan(
    pictures: Sequence[SourcePicture],
    recipe: PairRecipe,
    root: Path,
    *,
    pictures_per_shard: int = PICTURES_PER_SHARD,
) -> Path:
    """Write the plan of a dataset under `root` and return its path.

    Pictures that cannot be used are in the plan's left_out, each with its reason. Raises
    SharplineError where none can.
    """
    recipe = replace(recipe, degradation=parse(recipe.degradation).text)
    planned, left_out = [], []
    for picture in pictures:
        outcome = _examine(picture, recipe)
        (planned if isinstance(outcome, PlannedPicture) else left_out).append(outcome)
    if not planned:
        raise SharplineError(
            f"none of {len(pictures)} pictures can be used; the first is "
            f"{left_out[0].name}: {left_out[0].reason}"
        )
    dataset_id = _identify(planned, recipe)
    plan = Plan(
        id=dataset_id,
        source="+".join(dict.fromkeys(picture.source for picture in pictures)),
        scale=recipe.scale,
        degradation=recipe.degradation,
        pictures=planned,
        left_out=left_out,
        pictures_per_shard=pictures_per_shard,
        unchanged=(root / dataset_id / INFO_NAME).is_file(),
    )
    path = root / PLANS / dataset_id / "plan.json"
    write_json(path, plan.model_dump(mode="json"))
    return path


def read_plan(path: Path) -> Plan:
    """The plan at `path`; raises SharplineError where there is none."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SharplineError(f"{path} is no plan; make one with `sharpline data plan`") from error


def _examine(picture: SourcePicture, recipe: PairRecipe) -> PlannedPicture | LeftOut:
    try:
        data = picture.path.read_bytes()
        header = inspect(data, Limits())
    except OSError as error:
        return LeftOut(name=picture.name, reason=f"cannot be read: {error.strerror}")
    except PictureError as error:
        return LeftOut(name=picture.name, reason=str(error))
    least = MIN_LR_SIDE * recipe.scale
    if min(header.width, header.height) < least:
        return LeftOut(
            name=picture.name,
            reason=f"{header.width}x{header.height} is too small for "
            f"x{recipe.scale}: {least} pixels a side at least",
        )
    sha256 = sha256_bytes(data)
    return PlannedPicture(
        name=picture.name,
        path=str(picture.path),
        sha256=sha256,
        split=picture.split,
        source=picture.source,
        licence=picture.licence,
        author=picture.author,
        box=picture.box,
        seed=int(sha256_bytes(f"{sha256} {recipe}".encode())[:8], 16),
    )


def _identify(planned: Sequence[PlannedPicture], recipe: PairRecipe) -> str:
    """First 16 hex digits over content and recipe; where the pictures lie has no part in it."""
    content = {
        "version": BUILD_VERSION,
        "scale": recipe.scale,
        "degradation": recipe.degradation,
        "pictures": sorted(
            (picture.model_dump(mode="json", exclude={"path"}) for picture in planned),
            key=lambda entry: entry["name"],
        ),
    }
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())[:16]
