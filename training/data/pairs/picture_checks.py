"""Checks single pictures of a dataset: their files, their sizes, their making and their packing."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes
from superres.dataset.manifest import ManifestRow
from superres.degrade import degrade
from superres.image.codecs import PictureError, decode, read
from training.data.packs.packs import Pack, PackedPair
from training.data.shards.fingerprints import (
    PictureFingerprint,
    fingerprint_picture,
    write_fingerprints,
)
from training.data.shards.loading import Pixels, rgb8
from training.data.shards.plan import BENCHMARK, is_provided_lr
from training.data.shards.shards import BuiltPicture, PictureLocation, sha256_pixels
from training.data.sources.picture import SourcePicture


class Finding(NamedTuple):
    """Something wrong: the picture or file that it is about, and what it is."""

    what: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureChecks:
    """What was found on some pictures, and where their fingerprints and pixels lie."""

    findings: tuple[Finding, ...]
    locations: tuple[PictureLocation, ...]
    reproduced: int


def check_pictures(
    dataset: Path,
    pictures: Sequence[Sequence[ManifestRow]],
    again: frozenset[str],
    fingerprints_folder: Path,
) -> PictureChecks:
    """Check pictures, each given as the rows of its draws; store their fingerprints.

    LR pictures are made again where `again` names the picture.
    """
    findings: list[Finding] = []
    found: list[tuple[BuiltPicture, Path, PictureFingerprint]] = []
    packed, problem = _open_pack(dataset)
    findings += [problem] if problem else []
    reproduced = 0
    for draws in pictures:
        hr_hwc = _opened(dataset, draws[0].hr_path, draws[0].hr_sha256, draws[0].hr_bytes, findings)
        if hr_hwc is None:
            continue
        findings += _of_hr(draws[0], hr_hwc, packed)
        for row in draws:
            findings += _of_draw(dataset, row, hr_hwc, packed)
            if row.name in again and not is_provided_lr(row.degradation):
                findings += _of_making(dataset, row, hr_hwc)
                reproduced += 1
        fingerprints = fingerprint_picture(hr_hwc, draws[0].split)
        found.append((_built(draws[0], hr_hwc), dataset / draws[0].hr_path, fingerprints))
    return PictureChecks(
        findings=tuple(findings),
        locations=_located(found, fingerprints_folder),
        reproduced=reproduced,
    )


def fingerprint_references(
    references: Sequence[SourcePicture], fingerprints_folder: Path
) -> tuple[PictureLocation, ...]:
    """Pictures that none of the dataset may repeat, fingerprinted into `fingerprints_folder`."""
    found = []
    for reference in references:
        hwc = rgb8(read(reference.path))
        picture = BuiltPicture(
            name=f"{reference.source}/{reference.name}",
            split=BENCHMARK,
            width=hwc.shape[1],
            height=hwc.shape[0],
            hr_sha256=sha256_pixels(hwc),
        )
        found.append((picture, reference.path, fingerprint_picture(hwc, BENCHMARK)))
    return _located(found, fingerprints_folder)


def _located(
    found: Sequence[tuple[BuiltPicture, Path, PictureFingerprint]], fingerprints_folder: Path
) -> tuple[PictureLocation, ...]:
    fingerprints_folder.mkdir(parents=True)
    write_fingerprints(fingerprints_folder, [fingerprints for _, _, fingerprints in found])
    return tuple(
        PictureLocation(
            folder=fingerprints_folder, fingerprint_row=fingerprint_row, path=path, picture=picture
        )
        for fingerprint_row, (picture, path, _) in enumerate(found)
    )


def _built(row: ManifestRow, hr_hwc: Pixels) -> BuiltPicture:
    return BuiltPicture(
        name=row.name,
        split=row.split,
        width=row.width,
        height=row.height,
        hr_sha256=sha256_pixels(hr_hwc),
        rows=[row],
    )


def _open_pack(
    dataset: Path,
) -> tuple[tuple[Pack, dict[str, list[PackedPair]]] | None, Finding | None]:
    """The pack and its pairs by name, in the order of their draws; or why there is none."""
    try:
        pack = Pack(dataset)
    except SharplineError as error:
        return None, Finding("packs", str(error))
    by_name: dict[str, list[PackedPair]] = {}
    for pair in pack.pairs:
        by_name.setdefault(pair.name, []).append(pair)
    return (pack, by_name), None


def _opened(
    dataset: Path, path: str, sha256: str, size: int | None, findings: list[Finding]
) -> Pixels | None:
    """The pixels of one file, or None with the reason among the findings."""
    try:
        data = (dataset / path).read_bytes()
        if sha256_bytes(data) != sha256 or size not in (None, len(data)):
            findings.append(Finding(path, "is not the file that the manifest names by its sha256"))
        return decode(data).rgb_hwc
    except OSError:
        return None  # missing files have a finding of their own
    except PictureError as error:
        findings.append(Finding(path, str(error)))
        return None


def _of_hr(row: ManifestRow, hr_hwc: Pixels, packed: tuple[Pack, dict] | None) -> Iterator[Finding]:
    if hr_hwc.shape != (row.height, row.width, 3):
        yield Finding(
            row.hr_path, f"is {hr_hwc.shape[1]}x{hr_hwc.shape[0]}, not {row.width}x{row.height}"
        )
    elif row.split == "train" and packed is not None and row.name not in packed[1]:
        yield Finding(row.name, "is not in the pack")


def _of_draw(
    dataset: Path, row: ManifestRow, hr_hwc: Pixels, packed: tuple[Pack, dict] | None
) -> Iterator[Finding]:
    """One LR picture with its mask: their files, their size, and what the pack holds."""
    findings: list[Finding] = []
    lr_hwc = _opened(dataset, row.lr_path, row.lr_sha256, row.lr_bytes, findings)
    mask_hwc = (
        _opened(dataset, row.mask_path, row.mask_sha256, None, findings) if row.mask_path else None
    )
    yield from findings
    expected = (row.height // row.scale, row.width // row.scale, 3)
    for path, hwc in ((row.lr_path, lr_hwc), (row.mask_path, mask_hwc)):
        if hwc is not None and hwc.shape != expected:
            yield Finding(path, f"is {hwc.shape[1]}x{hwc.shape[0]}, not 1/{row.scale} of its HR")
    if packed is None or row.split != "train" or lr_hwc is None:
        return
    pack, by_name = packed
    pairs = by_name.get(row.name, [])
    if len(pairs) < row.draw:
        yield Finding(row.name, f"draw {row.draw} is not in the pack")
        return
    pair = pairs[row.draw - 1]
    for kind, in_pack, in_file in (("HR", pack.hr(pair), hr_hwc), ("LR", pack.lr(pair), lr_hwc)):
        if not np.array_equal(in_pack, in_file):
            yield Finding(row.name, f"its {kind} pixels in the pack are not those of its PNG file")


def _of_making(dataset: Path, row: ManifestRow, hr_hwc: Pixels) -> Iterator[Finding]:
    """Degrading the HR picture with the recorded seed gives the LR picture bit by bit."""
    made = degrade(hr_hwc, kind=row.degradation, scale=row.scale, seed=row.seed)
    ignored: list[Finding] = []
    lr_hwc = _opened(dataset, row.lr_path, row.lr_sha256, row.lr_bytes, ignored)
    if lr_hwc is not None and not np.array_equal(made.lr_hwc_u8, lr_hwc):
        yield Finding(
            row.lr_path, f"is not what {row.degradation} makes of its HR at seed {row.seed}"
        )
    if json.dumps(made.parameters, sort_keys=True) != row.parameters:
        yield Finding(row.name, f"its parameters are not those that seed {row.seed} draws")
    if made.damage_hw_u8 is not None and row.mask_path:
        mask_hwc = _opened(dataset, row.mask_path, row.mask_sha256, None, ignored)
        if mask_hwc is not None and not np.array_equal(made.damage_hw_u8, mask_hwc[..., 0]):
            yield Finding(row.mask_path, "is not the mask of the damage that its seed makes")
    if (made.damage_hw_u8 is None) != (not row.mask_path):
        yield Finding(row.name, "its mask is missing, or it has one where nothing is lost")
