"""The schema of a pairs dataset: a folder with dataset.json, manifest.parquet, pairs and packs.

ID/dataset.json                                 description (DatasetInfo)
ID/content.json                                 content and recipe; its sha256 begins with ID
ID/manifest.parquet                             one row per pair (ManifestRow)
ID/report.md                                    which pictures were left out and why
ID/pairs/{train,validation}/{HR,LR}/NAME.png    the pictures, readable by any toolkit
ID/pairs/{train,validation}/MASK/NAME.png       where a degradation destroyed the scene
ID/packs/train.{bin,json}                       the same pixels as uint8, for training

If a picture was degraded several times, its later draws are in LR-2, MASK-2 and so on.
"""

# pyarrow has no type annotations:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from superres.common.errors import SharplineError
from superres.common.files import write_bytes, write_json

SPLITS = ("train", "validation")
INFO_NAME, MANIFEST_NAME = "dataset.json", "manifest.parquet"
CONTENT_NAME, REPORT_NAME = "content.json", "report.md"

SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("name", pa.string()),
        ("hr_path", pa.string()),
        ("lr_path", pa.string()),
        ("hr_sha256", pa.string()),
        ("lr_sha256", pa.string()),
        ("hr_bytes", pa.int64()),
        ("lr_bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("scale", pa.int32()),
        ("degradation", pa.string()),
        ("parameters", pa.string()),
        ("seed", pa.int64()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("author", pa.string()),
        ("phash", pa.string()),
        ("draw", pa.int32()),
        ("mask_path", pa.string()),
        ("mask_sha256", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One pair. Paths are relative to the dataset folder; `width` and `height` are of the HR
    picture, sha256 and bytes of the PNG files; `parameters` are the degradation's, as JSON.

    `draw` counts the degradations of one picture from 1; `name` and `draw` together are unique.
    The mask is 255 where the scene is lost; without a mask its path and sha256 are empty.
    """

    split: str
    name: str
    hr_path: str
    lr_path: str
    hr_sha256: str
    lr_sha256: str
    hr_bytes: int
    lr_bytes: int
    width: int
    height: int
    scale: int
    degradation: str
    parameters: str
    seed: int
    source: str
    licence: str
    author: str
    phash: str
    draw: int = 1
    mask_path: str = ""
    mask_sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The row keyed by column, in the schema's order."""
        return asdict(self)


class LeftOut(BaseModel):
    """A picture that is not in the set, and why; `duplicate_of` names the picture it repeats."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reason: str
    duplicate_of: str = ""


class NearDuplicate(BaseModel):
    """Two pictures of one split that are near-duplicates and both stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    duplicate_of: str


class DatasetInfo(BaseModel):
    """The description of a dataset, for training, comparison and lineage.

    `splits` counts pairs. `reference` holds, for each feature of
    superres.analysis.degradation_features, the summary over the LR training pictures.
    `pack_sha256` is the sha256 of the pack's index, which holds the sha256 of every picture.
    `compared_with` counts the benchmark and hold-out pictures that none may repeat.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[3] = 3
    id: str
    source: str
    scale: int
    degradation: str
    splits: dict[str, int]
    licences: list[str]
    left_out: list[LeftOut]
    near_duplicates: list[NearDuplicate] = []
    compared_with: int = 0
    reference: dict[str, dict[str, float]]
    pack_sha256: str


def read_info(dataset: Path) -> DatasetInfo:
    """Read the description of a dataset folder; raises SharplineError if missing or broken."""
    path = dataset / INFO_NAME
    if not path.is_file():
        raise SharplineError(
            f"{dataset} is not a dataset folder (it has no {INFO_NAME}); make one "
            "with `sharpline data build`"
        )
    try:
        return DatasetInfo.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SharplineError(
            f"{path} is broken or of another version of Sharpline; build the "
            f"dataset again ({error.errors()[0]['msg']})"
        ) from error


def write_info(dataset: Path, info: DatasetInfo) -> None:
    """Write dataset.json atomically."""
    write_json(dataset / INFO_NAME, json.loads(info.model_dump_json()))


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read the rows of manifest.parquet, given its path or the dataset folder, in stored order."""
    file = path / MANIFEST_NAME if path.is_dir() else path
    try:
        table = pq.read_table(file, schema=SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise SharplineError(f"cannot read {file} ({error}); build the dataset again") from error
    return [ManifestRow(**row) for row in table.to_pylist()]


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write rows to the parquet file `path`; the same rows give the same bytes."""
    columns: Mapping[str, list[Any]] = {field.name: [] for field in fields(ManifestRow)}
    for row in rows:
        for name, values in columns.items():
            values.append(getattr(row, name))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink)
    write_bytes(path, sink.getvalue().to_pybytes())
