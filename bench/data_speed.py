"""Benchmarks training.data: crops a second, building against PNG decoding, memory, leak checks.

Pictures are synthetic, or those of REFERENCE_DATA; building is measured on 2K pictures, memory on
tiny ones. CPU seconds are reported with wall seconds, because on a busy machine wall seconds are
too high. The last line is the result as JSON.

    python -m bench.data_speed crops build memory
    REFERENCE_DATA=FOLDER python -m bench.data_speed leaks
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from superres.analysis.fingerprint import Fingerprint, fingerprint, mirror_image
from superres.common.console import emit, say
from superres.common.environment import cpu_threads
from superres.image.codecs import PICTURE_SUFFIXES, Picture, decode, encode, read
from superres.image.resize import imresize
from superres.model.benchmark import cpu_name
from training.data.leaks.holdout_index import HoldoutIndex
from training.data.packs.crops import CropSampler
from training.data.packs.packs import Pack
from training.data.pairs.build import build
from training.data.shards.plan import PairRecipe, make_plan
from training.data.sources.picture import SourcePicture
from training.data.workers import WorkerTask, run_tasks

TWO_K = (1356, 2040)
HOLDOUTS = 10  # of the tiny pictures
PLANTED = [(share, factor) for share in (0.25, 0.5, 1.0) for factor in (0.5, 1.0)]
FOLDERS = ("kodak24", "t91", "bsds500-train")


def main() -> None:
    arguments = _arguments()
    result: dict[str, object] = {"cpu": cpu_name(), "cores": cpu_threads()}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.what:
            result[name] = MEASURES[name](Path(scratch) / name, arguments)
            say(f"{name}: {result[name]}")
    emit(result)


def crops(scratch: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Random 48-pixel LR crops with their 192-pixel HR ones, rotated: the best of 5, one core."""
    pictures = _make(scratch / "in", 12, TWO_K)
    built = build(make_plan(pictures, PairRecipe(scale=4, degradation="bicubic"), scratch))
    sampler = CropSampler(Pack(built.path), patch=48, batch=16, seed=1)
    sampler.batch(0)
    rounds = arguments.rounds

    def draw() -> None:
        for step in range(rounds):
            sampler.batch(step)

    wall, cpu = min((_timed(draw) for _ in range(5)), key=lambda times: times[1])
    return {
        "crops_per_cpu_second": round(rounds * 16 / cpu),
        "crops_per_second": round(rounds * 16 / wall),
    }


def building(scratch: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Building pairs of 2K PNG files, against only decoding them, with as many processes."""
    pictures = _make(scratch / "in", arguments.pictures, TWO_K)
    tasks = [WorkerTask(picture.name, (picture.path,)) for picture in pictures]
    workers = arguments.workers
    pillow = _timed(lambda: list(run_tasks(decode_with_pillow, tasks, workers=workers)))
    checked = _timed(lambda: list(run_tasks(decode_checked, tasks, workers=workers)))
    recipe = PairRecipe(scale=4, degradation="bicubic")
    path = make_plan(pictures, recipe, scratch, pictures_per_shard=2)
    built = _timed(lambda: build(path, workers=workers))
    # The CPU time of live worker processes is unknown: with several workers only wall time counts.
    clocks = ("wall", "cpu") if workers == 1 else ("wall",)
    results = {
        f"{what}_{clock}_seconds": round(seconds, 2)
        for what, pair in (("pillow_decode", pillow), ("checked_decode", checked), ("build", built))
        for clock, seconds in zip(clocks, pair, strict=False)
    }
    last, clock = len(clocks) - 1, clocks[-1]
    return {
        "pictures": len(pictures),
        "workers": workers,
        **results,
        f"build_over_pillow_decode_{clock}": round(built[last] / pillow[last], 2),
        f"build_over_checked_decode_{clock}": round(built[last] / checked[last], 2),
    }


def decode_with_pillow(path: Path) -> None:
    """The lower bound: only the decoder."""
    Image.open(path).convert("RGB").load()


def decode_checked(path: Path) -> None:
    """Decoding as in training.data: with limits and a check for missing rows."""
    decode(path.read_bytes())


def memory(scratch: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Peak memory of a building process, for few and for ten times as many tiny pictures.

    Both have the same number of hold-out pictures, each of which adds to the leak check's index.
    """
    results: dict[str, float] = {}
    for count in (arguments.tiny // 10, arguments.tiny):
        options = ("--peak-of", str(count), "--scratch", str(scratch))
        command = [sys.executable, "-m", "bench.data_speed", *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results[f"peak_mib_{count}"] = round(int(done.stdout.split()[-1]) / 1024, 1)
    few, many = results.values()
    added = arguments.tiny - arguments.tiny // 10
    results["kib_per_picture"] = round((many - few) * 1024 / added, 2)
    return results


def peak_of(count: int, scratch: Path) -> None:
    """Build `count` tiny pictures in this process and print its peak memory in KiB."""
    pictures = _make(scratch / f"in{count}", count, (64, 64), holdout=HOLDOUTS)
    build(make_plan(pictures, PairRecipe(scale=2, degradation="bicubic"), scratch / f"out{count}"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # noqa: T201


def leaks(scratch: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Recall on planted crops, and false matches among unrelated photographs."""
    folder = os.environ.get("REFERENCE_DATA")
    if folder is None:
        return {"left out": "set REFERENCE_DATA to the folder of reference pictures"}
    paths = [
        path
        for name in FOLDERS
        for path in sorted((Path(folder) / "data" / name).iterdir())
        if path.suffix in PICTURE_SUFFIXES
    ]
    photos = [read(path).rgb_hwc for path in paths]
    began = time.process_time()
    fingerprints = [fingerprint(photo) for photo in photos]
    each_ms = (time.process_time() - began) / len(photos) * 1e3
    holdout = range(0, len(photos), 2)
    index = _index(
        [photos[position] for position in holdout], [fingerprints[position] for position in holdout]
    )
    began, false_matches = time.process_time(), []
    for position in range(1, len(photos), 2):
        match = index.find(fingerprints[position], lambda position=position: photos[position])
        duplicate = holdout[match.position % len(holdout)] if match is not None else None
        # T91 holds one picture twice: a true match.
        if duplicate is not None and not np.array_equal(photos[position], photos[duplicate]):
            false_matches.append(f"{paths[position].name} = {paths[duplicate].name}")
    look_up_ms = (time.process_time() - began) / (len(photos) // 2) * 1e3
    result: dict[str, object] = {
        "fingerprint_ms": round(each_ms, 1),
        "look_up_ms": round(look_up_ms, 1),
        "looked_up": len(photos) // 2,
        "held": len(holdout),
        "taken_for_a_leak": false_matches,
    }
    rng = np.random.default_rng(0)
    planted_positions = range(0, len(holdout), arguments.every)
    for prefix, start in (("found", 0), ("mirrored", len(holdout))):
        for share, factor in PLANTED:
            hits = 0
            for position in planted_positions:
                part = _planted(photos[holdout[position]], share, factor, rng)
                part = mirror_image(part) if start else part
                hits += _is_found(index, start + position, part)
            result[f"{prefix}_{share:.0%}_x{factor:g}"] = f"{hits} of {len(planted_positions)}"
    return result


def _index(photos: Sequence[np.ndarray], fingerprints: Sequence[Fingerprint]) -> HoldoutIndex:
    """The index of upright, then mirrored pictures, as in a build."""
    mirrored = [mirror_image(photo) for photo in photos]
    both = [*photos, *mirrored]
    return HoldoutIndex([*fingerprints, *map(fingerprint, mirrored)], both.__getitem__)


def _is_found(index: HoldoutIndex, position: int, part: np.ndarray) -> bool:
    match = index.find(fingerprint(part), lambda: part)
    return match is not None and match.position == position


def _planted(
    photo: np.ndarray, share: float, factor: float, rng: np.random.Generator
) -> np.ndarray:
    """A random crop of a picture, resized and compressed as JPEG."""
    height, width = (int(side * share**0.5) for side in photo.shape[:2])
    top, left = (
        int(rng.integers(0, margin + 1))
        for margin in (photo.shape[0] - height, photo.shape[1] - width)
    )
    part = np.ascontiguousarray(photo[top : top + height, left : left + width])
    if factor != 1:
        part = imresize(part, size=(round(height * factor), round(width * factor)))
    return decode(encode(Picture(rgb_hwc=part), "jpeg", quality=75)).rgb_hwc


def synthetic_photo(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth shapes with texture and a little noise; compresses about like a photograph."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for side in (8, 32, 128, 512):
        coarse = rng.normal(0, 20, (height // side + 4, width // side + 4, 3))
        total += imresize(coarse.astype(np.float32), size=(height, width))
    return np.clip(total + 127 + rng.normal(0, 1.5, total.shape), 0, 255).astype(np.uint8)


def _make(
    folder: Path, count: int, size: tuple[int, int], *, holdout: int | None = None
) -> list[SourcePicture]:
    """PNG files written by Pillow, the first `holdout` of them held out (default: a tenth)."""
    folder.mkdir(parents=True)
    held_out = -(-count // 10) if holdout is None else holdout
    pictures = []
    for number in range(count):
        path = folder / f"{number:05d}.png"
        Image.fromarray(synthetic_photo(number, *size)).save(path, "PNG")
        pictures.append(
            SourcePicture(
                name=path.stem,
                path=path,
                split="validation" if number < held_out else "train",
                source="made",
                licence="CC0-1.0",
                author="nobody",
            )
        )
    return pictures


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and of its ended child processes."""
    began, cpu_began = time.perf_counter(), _cpu_seconds()
    work()
    return time.perf_counter() - began, _cpu_seconds() - cpu_began


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


MEASURES: dict[str, Callable[[Path, argparse.Namespace], dict]] = {
    "crops": crops,
    "build": building,
    "memory": memory,
    "leaks": leaks,
}


def _measure(name: str) -> str:
    if name not in MEASURES:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(MEASURES)}")
    return name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", type=_measure, default=list(MEASURES))
    parser.add_argument("--pictures", type=int, default=16, help="2K pictures to build")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1000, help="batches of 16 crops")
    parser.add_argument(
        "--tiny", type=int, default=2000, help="tiny pictures for the memory benchmark"
    )
    parser.add_argument("--every", type=int, default=2, help="plant crops of every N-th picture")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    if arguments.peak_of:
        peak_of(arguments.peak_of, arguments.scratch)
        sys.exit()
    main()
