"""Pairs of pictures in three steps: plan, build each shard, seal.

Shards are independent and each is whole or absent, so they may be built anywhere, in any order and
again; sealing joins them into a dataset folder by one rename.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from superres.console import track
from superres.degrade import degrade
from superres.errors import SharplineError, UsageError
from superres.files import file_lock, sha256_bytes, staged_folder, write_bytes, write_json
from superres.image import Picture, PictureError, decode, encode, read
from superres.manifest import (
    MANIFEST_NAME,
    SPLITS,
    DatasetInfo,
    LeftOut,
    ManifestRow,
    read_info,
    write_info,
    write_manifest,
)
from superres.measure import measure, summarise
from training.data.packs import write_pack
from training.data.phash import NEAR_BITS, distance, perceptual_hash
from training.data.plan import MIN_LR_SIDE, Plan, PlannedPicture, read_plan

SHARDS, ROWS_NAME = "shards", "rows.json"
SEAL_WAIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A sealed dataset; `unchanged` where it had been there before its plan was made."""

    path: Path
    info: DatasetInfo
    unchanged: bool

    def as_dict(self) -> dict[str, object]:
        """The result of `sharpline data build` as JSON."""
        return {
            "dataset": self.info.id,
            "path": str(self.path),
            "pairs": self.info.splits,
            "unchanged": self.unchanged,
            "licences": self.info.licences,
            "left_out": len(self.info.left_out),
        }


def build(plan_path: Path) -> Built:
    """Build every shard of a plan that is not there yet, then seal."""
    plan = read_plan(plan_path)
    if not plan.unchanged:
        for index in track(range(plan.shards), "building pairs"):
            build_shard(plan_path, index)
    return seal(plan_path)


def build_shard(plan_path: Path, index: int) -> int:
    """Write one shard's pairs; return how many pictures it holds. A shard that is there stays.

    Raises UsageError on an index that the plan does not have.
    """
    plan = read_plan(plan_path)
    if not 0 <= index < plan.shards:
        raise UsageError(f"the plan has shards 0 to {plan.shards - 1}, not {index}")
    folder = _shard_folder(plan_path, index)
    if (folder / ROWS_NAME).is_file() or plan.unchanged:
        return len(plan.shard(index))
    rows: list[ManifestRow] = []
    left_out: list[LeftOut] = []
    with staged_folder(folder) as staging:
        for picture in plan.shard(index):
            try:
                rows.append(_write_pair(picture, plan, staging))
            except PictureError as error:
                left_out.append(LeftOut(name=picture.name, reason=str(error)))
        write_json(
            staging / ROWS_NAME,
            {
                "rows": [row.as_dict() for row in rows],
                "left_out": [entry.model_dump() for entry in left_out],
            },
        )
    return len(rows) + len(left_out)


def seal(plan_path: Path) -> Built:
    """Join all shards into the dataset folder; sealing again changes nothing.

    Raises SharplineError naming a shard that is missing, or where no training picture is left.
    """
    plan = read_plan(plan_path)
    root = plan_path.parent.parent.parent
    final = root / plan.id
    with file_lock(plan_path.with_name("seal.lock"), timeout_seconds=SEAL_WAIT_SECONDS):
        if not (final / "dataset.json").is_file():
            rows, left_out = _collect(plan, plan_path)
            with staged_folder(final) as staging:
                _assemble(plan, plan_path, rows, left_out, staging)
        shutil.rmtree(plan_path.with_name(SHARDS), ignore_errors=True)
    return Built(path=final, info=read_info(final), unchanged=plan.unchanged)


def _write_pair(planned: PlannedPicture, plan: Plan, folder: Path) -> ManifestRow:
    hr_hwc = _load_hr(planned, plan.scale)
    made = degrade(hr_hwc, kind=plan.degradation, scale=plan.scale, seed=planned.seed)
    written = {}
    for kind, pixels in (("HR", hr_hwc), ("LR", made.lr_hwc_u8)):
        data = encode(Picture(rgb_hwc=pixels), "png")
        path = f"pairs/{planned.split}/{kind}/{planned.name}.png"
        write_bytes(folder / path, data)
        written[kind] = (path, sha256_bytes(data), len(data))
    (hr_path, hr_sha256, hr_bytes), (lr_path, lr_sha256, lr_bytes) = written["HR"], written["LR"]
    return ManifestRow(
        split=planned.split,
        name=planned.name,
        hr_path=hr_path,
        lr_path=lr_path,
        hr_sha256=hr_sha256,
        lr_sha256=lr_sha256,
        hr_bytes=hr_bytes,
        lr_bytes=lr_bytes,
        width=hr_hwc.shape[1],
        height=hr_hwc.shape[0],
        scale=plan.scale,
        degradation=plan.degradation,
        parameters=json.dumps(made.parameters, sort_keys=True),
        seed=planned.seed,
        source=planned.source,
        licence=planned.licence,
        author=planned.author,
        phash=perceptual_hash(hr_hwc),
    )


def _load_hr(planned: PlannedPicture, scale: int) -> npt.NDArray[np.uint8]:
    """The picture as RGB uint8, its box cut out and its sides cropped to multiples of the scale."""
    data = Path(planned.path).read_bytes()
    if sha256_bytes(data) != planned.sha256:
        raise SharplineError(f"{planned.path} has changed since the plan was made; plan again")
    picture = decode(data, name=planned.name)
    if (
        picture.alpha_hw is not None
        and picture.alpha_hw.min() < np.iinfo(picture.alpha_hw.dtype).max
    ):
        raise Unusable("has transparent parts: what lies behind them is not part of the picture")
    rgb_hwc = picture.rgb_hwc
    if rgb_hwc.dtype == np.uint16:
        rgb_hwc = np.round(rgb_hwc / 257.0).astype(np.uint8)
    if planned.box is not None:
        box = planned.box
        rgb_hwc = rgb_hwc[box.top : box.top + box.height, box.left : box.left + box.width]
    height, width = (side // scale * scale for side in rgb_hwc.shape[:2])
    if min(height, width) < MIN_LR_SIDE * scale:
        raise Unusable(f"{width}x{height} is too small for x{scale}")
    return np.ascontiguousarray(rgb_hwc[:height, :width])


class Unusable(PictureError):
    """A picture that decodes but cannot teach; it is left out and named."""

    label = "unusable"


def _collect(plan: Plan, plan_path: Path) -> tuple[list[ManifestRow], list[LeftOut]]:
    """All shards' rows in a fixed order, duplicates taken out."""
    rows: list[ManifestRow] = []
    left_out = list(plan.left_out)
    for index in range(plan.shards):
        path = _shard_folder(plan_path, index) / ROWS_NAME
        if not path.is_file():
            raise SharplineError(
                f"shard {index} of {plan.shards} is not built yet; run "
                f"`sharpline data build --plan {plan_path} --shard {index}`"
            )
        shard = json.loads(path.read_bytes())
        rows += [ManifestRow(**row) for row in shard["rows"]]
        left_out += [LeftOut(**entry) for entry in shard["left_out"]]
    kept, duplicates = _without_duplicates(rows)
    if not any(row.split == "train" for row in kept):
        raise SharplineError(
            "no training picture is left: "
            + "; ".join(f"{entry.name}: {entry.reason}" for entry in (left_out + duplicates)[:3])
        )
    return (
        sorted(kept, key=lambda row: (row.split, row.name)),
        sorted(left_out + duplicates, key=lambda entry: entry.name),
    )


def _without_duplicates(
    rows: Sequence[ManifestRow],
) -> tuple[list[ManifestRow], list[LeftOut]]:
    """Rows less exact copies, and less training pictures that nearly equal a held-out one."""
    kept: list[ManifestRow] = []
    left_out: list[LeftOut] = []
    # Held-out pictures come first: of two copies it is the one in training that goes.
    for row in sorted(rows, key=lambda row: (row.split == "train", row.name)):
        twin = next((other for other in kept if _same(row, other)), None)
        if twin is None:
            kept.append(row)
        else:
            left_out.append(
                LeftOut(name=row.name, reason=f"the same picture as {twin.name} ({twin.split})")
            )
    return kept, left_out


def _same(row: ManifestRow, other: ManifestRow) -> bool:
    near = row.split != other.split and distance(row.phash, other.phash) <= NEAR_BITS
    return near or row.hr_sha256 == other.hr_sha256


def _assemble(
    plan: Plan,
    plan_path: Path,
    rows: Sequence[ManifestRow],
    left_out: Sequence[LeftOut],
    staging: Path,
) -> None:
    where = {
        picture.name: _shard_folder(plan_path, position // plan.pictures_per_shard)
        for position, picture in enumerate(plan.pictures)
    }
    for row in rows:
        for path in (row.hr_path, row.lr_path):
            _link(where[row.name] / path, staging / path)
    train = [row for row in rows if row.split == "train"]
    pack_sha256 = write_pack(staging, train)
    lr_pictures = (read(staging / row.lr_path).rgb_hwc for row in train)
    reference = summarise([measure(rgb_hwc) for rgb_hwc in lr_pictures])
    write_manifest(staging / MANIFEST_NAME, rows)
    write_info(
        staging,
        DatasetInfo(
            id=plan.id,
            source=plan.source,
            scale=plan.scale,
            degradation=plan.degradation,
            splits={split: sum(row.split == split for row in rows) for split in SPLITS},
            licences=sorted({row.licence for row in rows}),
            left_out=list(left_out),
            reference=reference,
            pack_sha256=pack_sha256,
        ),
    )


def _link(existing: Path, new: Path) -> None:
    """The same file under another name; a copy where the file system has no hard links."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(existing, new)
    except OSError:
        shutil.copyfile(existing, new)


def _shard_folder(plan_path: Path, index: int) -> Path:
    return plan_path.parent / SHARDS / f"{index:05d}"
