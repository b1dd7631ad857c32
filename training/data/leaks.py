"""Pictures that repeat another one: exactly, nearly, or a part of it.

Those that must stay unseen (held-out pictures, benchmarks) are put into an index once; every other
picture is then looked up in it, so the cost grows with the number of pictures and not its square.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from superres.fingerprint import Fingerprint
from superres.image import read
from superres.manifest import LeftOut, Twins
from training.data.loading import rgb8
from training.data.lookup import Found, Index, near_pairs
from training.data.plan import BENCHMARK
from training.data.shards import Located, read_prints
from training.data.workers import Job, run_jobs

ALIKE_BITS = 4  # of 64: unrelated photographs differ in about 32


class Held(NamedTuple):
    """A picture that no other may repeat: where its fingerprint and where its pixels lie."""

    folder: Path
    place: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Pictures that must go, and pairs of training pictures that look alike and may stay."""

    left_out: tuple[LeftOut, ...]
    alike: tuple[Twins, ...]


def find_repeats(located: Sequence[Located], *, workers: int) -> Repeats:
    """Which of the pictures repeat another one, of two the one that is needed less.

    A benchmark's picture outranks one held out for validation, and that one in training. Within a
    split only identical pixels go; training pictures that are merely alike are told of.
    """
    ranks = {BENCHMARK: 0, "validation": 1, "train": 2}
    kept, left_out = _without_copies(
        sorted(located, key=lambda entry: (ranks[entry.picture.split], entry.picture.name))
    )
    held: list[Located] = []
    for split in ranks:
        entries = [entry for entry in kept if entry.picture.split == split]
        if held and split != BENCHMARK:
            twins = _look_up_all(entries, held, workers=workers)
            left_out += [twins[name] for name in sorted(twins)]
            entries = [entry for entry in entries if entry.picture.name not in twins]
        if split == "train":
            return Repeats(left_out=tuple(left_out), alike=tuple(_alike(entries)))
        held += entries
    raise AssertionError("train is the last of the splits")


def _without_copies(ranked: Sequence[Located]) -> tuple[list[Located], list[LeftOut]]:
    """The pictures less those whose pixels an earlier one has too."""
    first: dict[str, Located] = {}
    kept, left_out = [], []
    for entry in ranked:
        twin = first.setdefault(entry.picture.hr_sha256, entry)
        if twin is entry or entry.picture.split == BENCHMARK:
            kept.append(entry)
        else:
            left_out.append(_left_out(entry.picture.name, "the same picture as", twin))
    return kept, left_out


def _left_out(name: str, how: str, twin: Located) -> LeftOut:
    picture = twin.picture
    return LeftOut(name=name, reason=f"{how} {picture.name} ({picture.split})", twin=picture.name)


def _look_up_all(
    entries: Sequence[Located], held: Sequence[Located], *, workers: int
) -> dict[str, LeftOut]:
    """What each of `entries` repeats of `held`, by name, looked up shard by shard."""
    where = tuple(Held(entry.folder, entry.place, entry.path) for entry in held)
    by_shard = groupby(sorted(entries, key=lambda entry: entry.folder), lambda entry: entry.folder)
    jobs = (
        Job(
            f"comparing {folder.name}",
            (folder, [(entry.picture.name, entry.place, entry.path) for entry in shard], where),
        )
        for folder, shard in by_shard
    )
    found: dict[str, LeftOut] = {}
    for names in run_jobs(_look_up, jobs, workers=workers):
        for name, (position, how) in names.items():
            found[name] = _left_out(name, how, held[position])
    return found


def _look_up(
    folder: Path, places: Sequence[tuple[str, int, Path]], held: tuple[Held, ...]
) -> dict[str, Found]:
    prints, index, found = read_prints(folder), _index(held), {}
    for name, place, path in places:
        twin = index.find(prints[place], lambda path=path: rgb8(read(path)))
        if twin is not None:
            found[name] = twin
    return found


@lru_cache(maxsize=1)
def _index(held: tuple[Held, ...]) -> Index:
    """Built once in each worker process."""
    prints: dict[Path, list[Fingerprint]] = {}
    for entry in held:
        if entry.folder not in prints:
            prints[entry.folder] = read_prints(entry.folder)
    return Index(
        [prints[entry.folder][entry.place] for entry in held],
        lambda position: rgb8(read(held[position].path)),
    )


def _alike(training: Sequence[Located]) -> Iterator[Twins]:
    """Each training picture that nearly repeats an earlier one, with the first such."""
    hashes = np.array([int(entry.picture.rows[0].phash, 16) for entry in training], np.uint64)
    twins: dict[int, int] = {}
    for later, earlier in near_pairs(hashes, ALIKE_BITS):
        twins[later] = min(earlier, twins.get(later, earlier))
    for later in sorted(twins):
        yield Twins(name=training[later].picture.name, twin=training[twins[later]].picture.name)
