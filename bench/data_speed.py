"""What the data room costs: crops a second, building beside the PNG decoder, memory, leak checks.

Pictures are made here, or taken from the folder given; building is measured on 2K pictures, memory
on tiny ones. CPU seconds are given beside wall seconds, for on a busy machine only they are what
the work costs. The last line is the result as JSON.

    python -m bench.data_speed crops build memory
    REFERENCE_DATA=FOLDER python -m bench.data_speed leaks
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
HELD = 10  # of the tiny pictures
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
    """Random 48-pixel LR crops with their 192-pixel HR ones, turned: the best of 5 on a core."""
    pictures = _make(scratch / "in", 12, TWO_K, whole_photo)
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
    """Building pairs of 2K PNG files, beside only decoding them, on the same processes."""
    pictures = _make(scratch / "in", arguments.pictures, TWO_K, whole_photo)
    tasks = [WorkerTask(picture.name, (picture.path,)) for picture in pictures]
    workers = arguments.workers
    plain = _timed(lambda: list(run_tasks(decode_with_pillow, tasks, workers=workers)))
    ours = _timed(lambda: list(run_tasks(decode_here, tasks, workers=workers)))
    recipe = PairRecipe(scale=4, degradation="bicubic")
    path = make_plan(pictures, recipe, scratch, pictures_per_shard=2)
    whole = _timed(lambda: build(path, workers=workers))
    # The CPU time of other processes is not this one's to know, so of several the wall time counts.
    clocks = ("wall", "cpu") if workers == 1 else ("wall",)
    figures = {
        f"{what}_{clock}_seconds": round(seconds, 2)
        for what, pair in (("pillow_decode", plain), ("checked_decode", ours), ("build", whole))
        for clock, seconds in zip(clocks, pair, strict=False)
    }
    last, clock = len(clocks) - 1, clocks[-1]
    return {
        "pictures": len(pictures),
        "workers": workers,
        **figures,
        f"build_over_pillow_decode_{clock}": round(whole[last] / plain[last], 2),
        f"build_over_checked_decode_{clock}": round(whole[last] / ours[last], 2),
    }


def decode_with_pillow(path: Path) -> None:
    """The bound: nothing but the decoder."""
    Image.open(path).convert("RGB").load()


def decode_here(path: Path) -> None:
    """What the house takes for a decoded picture: limits kept, missing rows noticed."""
    decode(path.read_bytes())


def memory(scratch: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The largest a building process gets, for few and for ten times as many tiny pictures.

    As many are held out of both: each of those costs its place in the index of the leak check.
    """
    figures: dict[str, float] = {}
    for count in (arguments.tiny // 10, arguments.tiny):
        options = ("--peak-of", str(count), "--scratch", str(scratch))
        command = [sys.executable, "-m", "bench.data_speed", *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures[f"peak_mib_{count}"] = round(int(done.stdout.split()[-1]) / 1024, 1)
    few, many = figures.values()
    added = arguments.tiny - arguments.tiny // 10
    figures["kib_per_picture"] = round((many - few) * 1024 / added, 2)
    return figures


def peak_of(count: int, scratch: Path) -> None:
    """Build that many tiny pictures in this process and say how large it got, in KiB."""
    pictures = _make(scratch / f"in{count}", count, (64, 64), whole_photo, held=HELD)
    build(make_plan(pictures, PairRecipe(scale=2, degradation="bicubic"), scratch / f"out{count}"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # noqa: T201


def leaks(scratch: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Planted crops that are found, and unrelated photographs that are taken for a leak."""
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
    held = range(0, len(photos), 2)
    index = _index([photos[place] for place in held], [fingerprints[place] for place in held])
    began, confused = time.process_time(), []
    for place in range(1, len(photos), 2):
        found = index.find(fingerprints[place], lambda place=place: photos[place])
        twin = held[found.position % len(held)] if found is not None else None
        # T91 holds one picture twice, and that is rightly found.
        if twin is not None and not np.array_equal(photos[place], photos[twin]):
            confused.append(f"{paths[place].name} = {paths[twin].name}")
    look_up_ms = (time.process_time() - began) / (len(photos) // 2) * 1e3
    result: dict[str, object] = {
        "fingerprint_ms": round(each_ms, 1),
        "look_up_ms": round(look_up_ms, 1),
        "looked_up": len(photos) // 2,
        "held": len(held),
        "taken_for_a_leak": confused,
    }
    rng = np.random.default_rng(0)
    asked = range(0, len(held), arguments.every)
    for way, start in (("found", 0), ("mirrored", len(held))):
        for share, factor in PLANTED:
            hits = 0
            for place in asked:
                part = _planted(photos[held[place]], share, factor, rng)
                part = mirror_image(part) if start else part
                hits += _is_found(index, start + place, part)
            result[f"{way}_{share:.0%}_x{factor:g}"] = f"{hits} of {len(asked)}"
    return result


def _index(photos: Sequence[np.ndarray], fingerprints: Sequence[Fingerprint]) -> HoldoutIndex:
    """The pictures as they are and then mirrored, as building looks others up in them."""
    mirrored = [mirror_image(photo) for photo in photos]
    both = [*photos, *mirrored]
    return HoldoutIndex([*fingerprints, *map(fingerprint, mirrored)], both.__getitem__)


def _is_found(index: HoldoutIndex, position: int, part: np.ndarray) -> bool:
    found = index.find(fingerprint(part), lambda: part)
    return found is not None and found.position == position


def _planted(
    photo: np.ndarray, share: float, factor: float, rng: np.random.Generator
) -> np.ndarray:
    """A part of a picture, resized and sent through JPEG."""
    height, width = (int(side * share**0.5) for side in photo.shape[:2])
    top, left = (
        int(rng.integers(0, room + 1)) for room in (photo.shape[0] - height, photo.shape[1] - width)
    )
    part = np.ascontiguousarray(photo[top : top + height, left : left + width])
    if factor != 1:
        part = imresize(part, size=(round(height * factor), round(width * factor)))
    return decode(encode(Picture(rgb_hwc=part), "jpeg", quality=75)).rgb_hwc


def whole_photo(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth shapes with texture and a little noise: about as hard to compress as a photograph."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for side in (8, 32, 128, 512):
        coarse = rng.normal(0, 20, (height // side + 4, width // side + 4, 3))
        total += imresize(coarse.astype(np.float32), size=(height, width))
    return np.clip(total + 127 + rng.normal(0, 1.5, total.shape), 0, 255).astype(np.uint8)


def _make(
    folder: Path,
    count: int,
    size: tuple[int, int],
    draw: Callable[[int, int, int], np.ndarray],
    *,
    held: int | None = None,
) -> list[SourcePicture]:
    """PNG files as Pillow writes them, the first `held` of them held out (default: a tenth)."""
    folder.mkdir(parents=True)
    return list(_written(folder, count, size, draw, -(-count // 10) if held is None else held))


def _written(
    folder: Path,
    count: int,
    size: tuple[int, int],
    draw: Callable[[int, int, int], np.ndarray],
    held: int,
) -> Iterator[SourcePicture]:
    for number in range(count):
        path = folder / f"{number:05d}.png"
        buffer = io.BytesIO()
        Image.fromarray(draw(number, *size)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
        yield SourcePicture(
            name=path.stem,
            path=path,
            split="validation" if number < held else "train",
            source="made",
            licence="CC0-1.0",
            author="nobody",
        )


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and of those that it started and have ended."""
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
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(MEASURES)}")
    return name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", type=_measure, default=list(MEASURES))
    parser.add_argument("--pictures", type=int, default=16, help="2K pictures to build")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1000, help="batches of 16 crops")
    parser.add_argument("--tiny", type=int, default=2000, help="tiny pictures for the memory")
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
