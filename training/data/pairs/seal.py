"""Joins the shards of a plan into a dataset folder, without duplicates.

Files are linked or copied; pixels are read only where two pictures look alike.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from superres.analysis.degradation_features import summarise
from superres.common.errors import SharplineError
from superres.common.files import translate_write_errors, write_bytes
from superres.dataset.manifest import (
    CONTENT_NAME,
    MANIFEST_NAME,
    REPORT_NAME,
    SPLITS,
    DatasetInfo,
    LeftOut,
    ManifestRow,
    write_info,
    write_manifest,
)
from training.data.leaks.leak_check import Duplicates, find_duplicates
from training.data.packs.packs import write_pack
from training.data.pairs.report import write_report
from training.data.shards.plan import BENCHMARK, Plan
from training.data.shards.shards import ROWS_NAME, BuiltPicture, PictureLocation, read_shard


def assemble(
    plan: Plan, plan_path: Path, folders: Sequence[Path], staging: Path, *, workers: int
) -> None:
    """Fill `staging` with the dataset of a plan whose shards are in `folders`.

    Raises SharplineError naming a shard that is missing, or where no training picture is left.
    """
    locations, left_out = _collect(plan, plan_path, folders)
    duplicates = find_duplicates(locations, workers=workers)
    left_out += duplicates.left_out
    removed = {entry.name for entry in duplicates.left_out}
    kept = [
        entry
        for entry in sorted(locations, key=lambda entry: (entry.picture.split, entry.picture.name))
        if entry.picture.split != BENCHMARK and entry.picture.name not in removed
    ]
    training = [entry for entry in kept if entry.picture.split == "train"]
    if not training:
        first = "; ".join(f"{entry.name}: {entry.reason}" for entry in left_out[:3])
        raise SharplineError(f"no training picture is left: {first}")
    rows = [row for entry in kept for row in entry.picture.rows]
    with translate_write_errors(staging):
        _link_files(kept, staging)
        pack_sha256 = write_pack(staging, training, plan.scale, workers=workers)
    write_manifest(staging / MANIFEST_NAME, rows)
    write_bytes(staging / CONTENT_NAME, plan.content())
    info = _describe(plan, rows, training, left_out, duplicates, pack_sha256)
    write_report(staging / REPORT_NAME, info)
    write_info(staging, info)


def _collect(
    plan: Plan, plan_path: Path, folders: Sequence[Path]
) -> tuple[list[PictureLocation], list[LeftOut]]:
    """Every picture of every shard, and the pictures left out so far."""
    locations: list[PictureLocation] = []
    left_out = list(plan.left_out)
    reference_paths = {picture.name: Path(picture.path) for picture in plan.references}
    for index, folder in enumerate(folders):
        if not (folder / ROWS_NAME).is_file():
            raise SharplineError(
                f"shard {index} of {plan.shards} is not built yet; run "
                f"`sharpline data build --plan {plan_path} --shard {index}`"
            )
        shard = read_shard(folder)
        for fingerprint_row, picture in enumerate(shard.pictures):
            path = (
                folder / picture.rows[0].hr_path if picture.rows else reference_paths[picture.name]
            )
            locations.append(
                PictureLocation(
                    folder=folder, fingerprint_row=fingerprint_row, path=path, picture=picture
                )
            )
        left_out += shard.left_out
    return locations, left_out


def _describe(
    plan: Plan,
    rows: Sequence[ManifestRow],
    training: Sequence[PictureLocation],
    left_out: Sequence[LeftOut],
    duplicates: Duplicates,
    pack_sha256: str,
) -> DatasetInfo:
    measured = [values for entry in training for values in entry.picture.measured]
    return DatasetInfo(
        id=plan.id,
        source=plan.source,
        scale=plan.scale,
        degradation=plan.degradation,
        splits={split: sum(row.split == split for row in rows) for split in SPLITS},
        licences=sorted({row.licence for row in rows}),
        left_out=sorted(left_out, key=lambda entry: entry.name),
        near_duplicates=list(duplicates.near_duplicates),
        compared_with=len(plan.references),
        reference=summarise(measured),
        pack_sha256=pack_sha256,
    )


def _link_files(kept: Sequence[PictureLocation], staging: Path) -> None:
    for entry in kept:
        for path in dict.fromkeys(_files_of(entry.picture)):
            _link(entry.folder / path, staging / path)


def _files_of(picture: BuiltPicture) -> Iterator[str]:
    for row in picture.rows:
        yield from filter(None, (row.hr_path, row.lr_path, row.mask_path))


def _link(existing: Path, new: Path) -> None:
    """Hard-link a file; copy it where the file system has no hard links."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(existing, new)
    except OSError:
        shutil.copyfile(existing, new)
