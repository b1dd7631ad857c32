"""Verifies a dataset from its own folder: every file, pair, pixel and split."""

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from superres.common.console import track
from superres.common.files import sha256_bytes, sha256_file
from superres.dataset.manifest import (
    CONTENT_NAME,
    INFO_NAME,
    MANIFEST_NAME,
    REPORT_NAME,
    SPLITS,
    DatasetInfo,
    ManifestRow,
    read_info,
    read_manifest,
)
from training.data.leaks.leak_check import find_duplicates
from training.data.packs.packs import INDEX_NAME, PACK_NAME
from training.data.pairs.picture_checks import (
    Finding,
    PictureChecks,
    check_pictures,
    fingerprint_references,
)
from training.data.shards.plan import identify
from training.data.shards.shards import PictureLocation
from training.data.sources.picture import SourcePicture
from training.data.workers import WorkerTask, run_tasks

PICTURES_PER_TASK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationResult:
    """The counts and findings of a verification."""

    dataset: str
    pictures: int
    pairs: int
    reproduced: int
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, object]:
        """The result of `sharpline data verify` as JSON."""
        return {
            "dataset": self.dataset,
            "pictures": self.pictures,
            "pairs": self.pairs,
            "reproduced": self.reproduced,
            "findings": [finding._asdict() for finding in self.findings],
        }


def verify(
    dataset: Path,
    *,
    references: Sequence[SourcePicture] = (),
    sample: int | None = None,
    workers: int = 1,
) -> VerificationResult:
    """Check a dataset folder against its manifest, and the manifest against its content and id.

    The LR of all pictures, or of `sample` of them, is reproduced from the HR. No training picture
    may repeat a hold-out picture or one of `references`. Raises SharplineError where the dataset's
    description cannot be read.
    """
    info, rows = read_info(dataset), read_manifest(dataset)
    findings = [*_check_content(dataset, info, rows), *_check_files(dataset, info, rows)]
    findings += _check_licences(info, rows)
    pictures = [list(draws) for _, draws in groupby(rows, key=lambda row: (row.split, row.name))]
    with tempfile.TemporaryDirectory() as scratch:
        checks = _check_in_workers(
            dataset, pictures, _reproduced_names(info, pictures, sample), Path(scratch), workers
        )
        findings += [finding for check in checks for finding in check.findings]
        locations = [location for check in checks for location in check.locations]
        locations += fingerprint_references(references, Path(scratch) / "references")
        findings += _check_splits(locations, workers)
    return VerificationResult(
        dataset=info.id,
        pictures=len(pictures),
        pairs=len(rows),
        reproduced=sum(check.reproduced for check in checks),
        findings=tuple(sorted(set(findings))),
    )


def _check_content(
    dataset: Path, info: DatasetInfo, rows: Sequence[ManifestRow]
) -> Iterator[Finding]:
    """Check that the id is the content's hash and that rows and left-out pictures make it up."""
    try:
        data = (dataset / CONTENT_NAME).read_bytes()
        content: dict[str, Any] = json.loads(data)
        stated = {picture["name"]: picture for picture in content["pictures"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        yield Finding(CONTENT_NAME, f"cannot be read ({error})")
        return
    if identify(data) != info.id:
        yield Finding(CONTENT_NAME, f"its hash is {identify(data)} and not the id {info.id}")
    for row in rows:
        planned = stated.get(row.name)
        if planned is None or row.draw > len(planned["seeds"]):
            yield Finding(row.name, f"draw {row.draw} is in the manifest, not in {CONTENT_NAME}")
            continue
        for column, expected in (
            *((name, planned[name]) for name in ("split", "source", "licence", "author")),
            *((name, content[name]) for name in ("scale", "degradation")),
            ("seed", planned["seeds"][row.draw - 1]),
        ):
            if getattr(row, column) != expected:
                yield Finding(row.name, f"{column} is {getattr(row, column)!r}, not {expected!r}")
    draws = {(row.name, row.draw) for row in rows}
    left_out = {entry.name for entry in info.left_out}
    for name, planned in stated.items():
        for draw in range(1, len(planned["seeds"]) + 1):
            if (name, draw) not in draws and name not in left_out:
                yield Finding(name, f"draw {draw} is neither in the manifest nor left out")


def _check_files(
    dataset: Path, info: DatasetInfo, rows: Sequence[ManifestRow]
) -> Iterator[Finding]:
    """Check that no file is missing or unexpected."""
    expected = {CONTENT_NAME, INFO_NAME, MANIFEST_NAME, REPORT_NAME, PACK_NAME, INDEX_NAME}
    for row in rows:
        expected |= {path for path in (row.hr_path, row.lr_path, row.mask_path) if path}
    present = {str(path.relative_to(dataset)) for path in dataset.rglob("*") if not path.is_dir()}
    for path in sorted(expected - present):
        yield Finding(path, "is missing")
    for path in sorted(present - expected):
        yield Finding(path, "does not belong to the dataset")
    if INDEX_NAME in present and sha256_file(dataset / INDEX_NAME) != info.pack_sha256:
        yield Finding(INDEX_NAME, "its sha256 is not the one in dataset.json")
    counts = {split: sum(row.split == split for row in rows) for split in SPLITS}
    if counts != info.splits:
        yield Finding(INFO_NAME, f"states {info.splits} pairs where the manifest has {counts}")


def _check_licences(info: DatasetInfo, rows: Sequence[ManifestRow]) -> Iterator[Finding]:
    for row in rows:
        if not row.licence.strip():
            yield Finding(row.name, "has no licence")
    if sorted({row.licence for row in rows}) != info.licences:
        yield Finding(INFO_NAME, "its licences are not those of the manifest")


def _reproduced_names(
    info: DatasetInfo, pictures: Sequence[Sequence[ManifestRow]], sample: int | None
) -> frozenset[str]:
    """Names of the pictures whose LR is reproduced; the same for the same dataset."""
    names = [draws[0].name for draws in pictures]
    if sample is not None and sample < len(names):
        names = random.Random(sha256_bytes(info.id.encode())).sample(names, sample)
    return frozenset(names)


def _check_in_workers(
    dataset: Path,
    pictures: Sequence[Sequence[ManifestRow]],
    reproduced_names: frozenset[str],
    scratch: Path,
    workers: int,
) -> list[PictureChecks]:
    starts = range(0, len(pictures), PICTURES_PER_TASK)
    tasks = (
        WorkerTask(
            f"pictures {start} to {start + PICTURES_PER_TASK - 1}",
            (
                dataset,
                part,
                reproduced_names.intersection(draws[0].name for draws in part),
                scratch / str(start),
            ),
        )
        for start, part in (
            (start, pictures[start : start + PICTURES_PER_TASK]) for start in starts
        )
    )
    done = run_tasks(check_pictures, tasks, workers=workers)
    return list(track(done, "verifying pictures, in batches of 16", len(starts)))


def _check_splits(locations: Sequence[PictureLocation], workers: int) -> Iterator[Finding]:
    for entry in find_duplicates(locations, workers=workers).left_out:
        yield Finding(entry.name, f"must not be in this dataset: {entry.reason}")
