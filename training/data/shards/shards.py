"""One shard of a plan: its pairs as PNG files, its pixels for the pack, its fingerprints.

A shard is a folder that is written atomically. Its bytes are a function of its pictures and the
recipe, so it may be built on any machine and repeatedly.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydantic import BaseModel, ConfigDict

from superres.analysis.degradation_features import measure
from superres.common.errors import SharplineError
from superres.common.files import (
    file_lock,
    remove_abandoned,
    sha256_bytes,
    staged_folder,
    translate_write_errors,
    write_bytes,
)
from superres.dataset.manifest import LeftOut, ManifestRow
from superres.degrade import Degraded, degrade
from superres.image.codecs import Picture, PictureError, encode
from training.data.shards.fingerprints import (
    PictureFingerprint,
    fingerprint_picture,
    write_fingerprints,
)
from training.data.shards.loading import Pixels, load_hr, load_lr, load_reference
from training.data.shards.plan import BENCHMARK, PlannedPicture, is_provided_lr

ROWS_NAME, RAW_NAME = "rows.json", "train.bin"
LOCK_WAIT_SECONDS = 3600.0  # for another process that builds the same shard


class BuiltPicture(BaseModel):
    """A shard's record of one picture: its pairs, and the offset of its pixels in the raw file.

    sha256 are those of raw pixels. Only training pictures have pixels there, HR and then each LR;
    reference pictures have no rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    split: str
    width: int
    height: int
    hr_sha256: str
    lr_sha256: list[str] = []
    offset: int = 0
    rows: list[ManifestRow] = []
    measured: list[dict[str, float]] = []


class Shard(BaseModel):
    """The record of a built shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: list[BuiltPicture]
    left_out: list[LeftOut]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLocation:
    """A built picture, the folder and row of its fingerprint, and a file of its pixels."""

    folder: Path
    fingerprint_row: int
    path: Path
    picture: BuiltPicture


def write_shard(
    folder: Path, pictures: Sequence[PlannedPicture], scale: int, degradation: str
) -> int:
    """Build a shard into `folder` unless it exists; return the number of `pictures`."""
    with file_lock(folder.with_name(f".{folder.name}.lock"), timeout_seconds=LOCK_WAIT_SECONDS):
        if not (folder / ROWS_NAME).is_file():
            remove_abandoned(folder)
            with staged_folder(folder) as staging:
                _fill(staging, pictures, scale, degradation)
    return len(pictures)


def read_shard(folder: Path) -> Shard:
    """The record of a shard; raises SharplineError where it is damaged."""
    try:
        return Shard.model_validate_json((folder / ROWS_NAME).read_bytes())
    except (OSError, ValueError) as error:
        raise SharplineError(f"{folder} is damaged; delete it and build again") from error


def sha256_pixels(hwc: Pixels) -> str:
    """The sha256 of raw pixels (H, W, 3) in row-major order."""
    return hashlib.sha256(np.ascontiguousarray(hwc).data).hexdigest()


def _fill(staging: Path, pictures: Sequence[PlannedPicture], scale: int, degradation: str) -> None:
    built: list[BuiltPicture] = []
    fingerprints: list[PictureFingerprint] = []
    left_out: list[LeftOut] = []
    with translate_write_errors(staging), (staging / RAW_NAME).open("wb") as raw:
        for planned in pictures:
            try:
                picture, picture_fingerprint = (
                    _fingerprint_reference(planned)
                    if planned.split == BENCHMARK
                    else _write_pairs(staging, raw, planned, scale, degradation)
                )
            except PictureError as error:
                left_out.append(LeftOut(name=planned.name, reason=str(error)))
                continue
            built.append(picture)
            fingerprints.append(picture_fingerprint)
        write_fingerprints(staging, fingerprints)
    record = Shard(pictures=built, left_out=left_out)
    write_bytes(staging / ROWS_NAME, record.model_dump_json().encode())


def _fingerprint_reference(planned: PlannedPicture) -> tuple[BuiltPicture, PictureFingerprint]:
    """Load and fingerprint a reference picture; raises SharplineError where it is unreadable."""
    rgb_hwc = load_reference(planned)
    picture = BuiltPicture(
        name=planned.name,
        split=planned.split,
        width=rgb_hwc.shape[1],
        height=rgb_hwc.shape[0],
        hr_sha256=sha256_pixels(rgb_hwc),
    )
    return picture, fingerprint_picture(rgb_hwc, planned.split)


def _write_pairs(
    folder: Path, raw: BinaryIO, planned: PlannedPicture, scale: int, degradation: str
) -> tuple[BuiltPicture, PictureFingerprint]:
    hr_hwc, hr_png = load_hr(planned, scale)
    made = list(_degraded(planned, hr_hwc, scale, degradation))
    fingerprints = fingerprint_picture(hr_hwc, planned.split)
    hr_path = f"pairs/{planned.split}/HR/{planned.name}.png"
    write_bytes(folder / hr_path, hr_png)
    rows = []
    for draw, (seed, degraded) in enumerate(zip(planned.seeds, made, strict=True), start=1):
        lr_path, lr_png = _write_plane(
            folder, planned, "LR", draw, Picture(rgb_hwc=degraded.lr_hwc_u8)
        )
        mask_path, mask_png = "", b""
        if degraded.damage_hw_u8 is not None:
            mask = Picture(rgb_hwc=degraded.damage_hw_u8[..., None].repeat(3, axis=2), grey=True)
            mask_path, mask_png = _write_plane(folder, planned, "MASK", draw, mask)
        rows.append(
            ManifestRow(
                split=planned.split,
                name=planned.name,
                draw=draw,
                hr_path=hr_path,
                lr_path=lr_path,
                mask_path=mask_path,
                hr_sha256=sha256_bytes(hr_png),
                lr_sha256=sha256_bytes(lr_png),
                mask_sha256=sha256_bytes(mask_png) if mask_path else "",
                hr_bytes=len(hr_png),
                lr_bytes=len(lr_png),
                width=hr_hwc.shape[1],
                height=hr_hwc.shape[0],
                scale=scale,
                degradation=degradation,
                parameters=json.dumps(degraded.parameters, sort_keys=True),
                seed=seed,
                source=planned.source,
                licence=planned.licence,
                author=planned.author,
                phash=f"{fingerprints.upright.phash:016x}",
            )
        )
    offset = raw.tell()
    if planned.split == "train":
        for pixels in (hr_hwc, *(degraded.lr_hwc_u8 for degraded in made)):
            raw.write(np.ascontiguousarray(pixels).data)
    picture = BuiltPicture(
        name=planned.name,
        split=planned.split,
        width=hr_hwc.shape[1],
        height=hr_hwc.shape[0],
        hr_sha256=sha256_pixels(hr_hwc),
        lr_sha256=[sha256_pixels(degraded.lr_hwc_u8) for degraded in made],
        offset=offset,
        rows=rows,
        measured=[measure(degraded.lr_hwc_u8) for degraded in made],
    )
    return picture, fingerprints


def _degraded(
    planned: PlannedPicture, hr_hwc: Pixels, scale: int, degradation: str
) -> Iterator[Degraded]:
    if not is_provided_lr(degradation):
        for seed in planned.seeds:
            yield degrade(hr_hwc, kind=degradation, scale=scale, seed=seed)
        return
    lr_hwc = load_lr(planned, scale, hr_hwc.shape)
    yield Degraded(lr_hwc_u8=lr_hwc, parameters={"given_sha256": planned.lr_sha256})


def _write_plane(
    folder: Path, planned: PlannedPicture, kind: str, draw: int, picture: Picture
) -> tuple[str, bytes]:
    """Write one picture of a pair; return its path in the dataset and its bytes."""
    folder_name = kind if draw == 1 else f"{kind}-{draw}"
    path = f"pairs/{planned.split}/{folder_name}/{planned.name}.png"
    data = encode(picture, "png")
    write_bytes(folder / path, data)
    return path, data
