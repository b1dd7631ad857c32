"""Checks the pictures of a dataset: files, sizes, reproduction of the LR, and pack."""

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
    """A problem, and the picture or file that has it."""

    what: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureChecks:
    """The findings on some pictures, and the locations of their fingerprints and pixels."""

    findings: tuple[Finding, ...]
    locations: tuple[PictureLocation, ...]
    reproduced: int


def check_pictures(
    dataset: Path,
    pictures: Sequence[Sequence[ManifestRow]],
    reproduced_names: frozenset[str],
    fingerprints_folder: Path,
) -> PictureChecks:
    """Check pictures, each given as the rows of its draws; store their fingerprints.

    The LR of the pictures in `reproduced_names` is reproduced and compared.
    """
    findings: list[Finding] = []
    fingerprinted: list[tuple[BuiltPicture, Path, PictureFingerprint]] = []
    packed, problem = _open_pack(dataset)
    findings += [problem] if problem else []
    reproduced = 0
    for draws in pictures:
        hr_hwc = _read_pixels(
            dataset, draws[0].hr_path, draws[0].hr_sha256, draws[0].hr_bytes, findings
        )
        if hr_hwc is None:
            continue
        findings += _check_hr(draws[0], hr_hwc, packed)
        for row in draws:
            findings += _check_draw(dataset, row, hr_hwc, packed)
            if row.name in reproduced_names and not is_provided_lr(row.degradation):
                findings += _check_reproduction(dataset, row, hr_hwc)
                reproduced += 1
        fingerprints = fingerprint_picture(hr_hwc, draws[0].split)
        fingerprinted.append(
            (_picture_record(draws[0], hr_hwc), dataset / draws[0].hr_path, fingerprints)
        )
    return PictureChecks(
        findings=tuple(findings),
        locations=_store_fingerprints(fingerprinted, fingerprints_folder),
        reproduced=reproduced,
    )


def fingerprint_references(
    references: Sequence[SourcePicture], fingerprints_folder: Path
) -> tuple[PictureLocation, ...]:
    """Fingerprint the reference pictures, which the dataset must not repeat, into a folder."""
    fingerprinted = []
    for reference in references:
        hwc = rgb8(read(reference.path))
        picture = BuiltPicture(
            name=f"{reference.source}/{reference.name}",
            split=BENCHMARK,
            width=hwc.shape[1],
            height=hwc.shape[0],
            hr_sha256=sha256_pixels(hwc),
        )
        fingerprinted.append((picture, reference.path, fingerprint_picture(hwc, BENCHMARK)))
    return _store_fingerprints(fingerprinted, fingerprints_folder)


def _store_fingerprints(
    fingerprinted: Sequence[tuple[BuiltPicture, Path, PictureFingerprint]],
    fingerprints_folder: Path,
) -> tuple[PictureLocation, ...]:
    fingerprints_folder.mkdir(parents=True)
    write_fingerprints(fingerprints_folder, [fingerprints for _, _, fingerprints in fingerprinted])
    return tuple(
        PictureLocation(
            folder=fingerprints_folder, fingerprint_row=fingerprint_row, path=path, picture=picture
        )
        for fingerprint_row, (picture, path, _) in enumerate(fingerprinted)
    )


def _picture_record(row: ManifestRow, hr_hwc: Pixels) -> BuiltPicture:
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
    """The pack and its pairs by name, in the order of their draws; or a finding."""
    try:
        pack = Pack(dataset)
    except SharplineError as error:
        return None, Finding("packs", str(error))
    by_name: dict[str, list[PackedPair]] = {}
    for pair in pack.pairs:
        by_name.setdefault(pair.name, []).append(pair)
    return (pack, by_name), None


def _read_pixels(
    dataset: Path, path: str, sha256: str, size: int | None, findings: list[Finding]
) -> Pixels | None:
    """The pixels of one file, or None with the reason added to the findings."""
    try:
        data = (dataset / path).read_bytes()
        if sha256_bytes(data) != sha256 or size not in (None, len(data)):
            findings.append(Finding(path, "is not the file whose sha256 the manifest states"))
        return decode(data).rgb_hwc
    except OSError:
        return None  # missing files are reported by verify
    except PictureError as error:
        findings.append(Finding(path, str(error)))
        return None


def _check_hr(
    row: ManifestRow, hr_hwc: Pixels, packed: tuple[Pack, dict] | None
) -> Iterator[Finding]:
    if hr_hwc.shape != (row.height, row.width, 3):
        yield Finding(
            row.hr_path, f"is {hr_hwc.shape[1]}x{hr_hwc.shape[0]}, not {row.width}x{row.height}"
        )
    elif row.split == "train" and packed is not None and row.name not in packed[1]:
        yield Finding(row.name, "is not in the pack")


def _check_draw(
    dataset: Path, row: ManifestRow, hr_hwc: Pixels, packed: tuple[Pack, dict] | None
) -> Iterator[Finding]:
    """Check one LR picture and its mask: files, sizes and pack."""
    findings: list[Finding] = []
    lr_hwc = _read_pixels(dataset, row.lr_path, row.lr_sha256, row.lr_bytes, findings)
    mask_hwc = (
        _read_pixels(dataset, row.mask_path, row.mask_sha256, None, findings)
        if row.mask_path
        else None
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


def _check_reproduction(dataset: Path, row: ManifestRow, hr_hwc: Pixels) -> Iterator[Finding]:
    """Check that degrading the HR picture with the recorded seed gives the same LR bit for bit."""
    degraded = degrade(hr_hwc, kind=row.degradation, scale=row.scale, seed=row.seed)
    ignored: list[Finding] = []
    lr_hwc = _read_pixels(dataset, row.lr_path, row.lr_sha256, row.lr_bytes, ignored)
    if lr_hwc is not None and not np.array_equal(degraded.lr_hwc_u8, lr_hwc):
        yield Finding(row.lr_path, f"differs from {row.degradation} of its HR with seed {row.seed}")
    if json.dumps(degraded.parameters, sort_keys=True) != row.parameters:
        yield Finding(row.name, f"its parameters are not those that seed {row.seed} draws")
    if degraded.damage_hw_u8 is not None and row.mask_path:
        mask_hwc = _read_pixels(dataset, row.mask_path, row.mask_sha256, None, ignored)
        if mask_hwc is not None and not np.array_equal(degraded.damage_hw_u8, mask_hwc[..., 0]):
            yield Finding(row.mask_path, "differs from the damage mask of its seed")
    if (degraded.damage_hw_u8 is None) != (not row.mask_path):
        yield Finding(row.name, "its mask is missing, or it has one without damage")
