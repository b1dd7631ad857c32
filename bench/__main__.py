"""`make bench`: how fast each model enlarges one picture on this machine, by backend and precision.

One 480x270 picture is cut, run and joined the way the server does it, after one unmeasured run;
the figure is the median of several. The table names the machine, because a speed without one says
nothing. The same figures go to build/bench.json.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from superres.backends import BackendUnavailable, load_backend
from superres.bundle import Bundle, load_bundle
from superres.console import emit, say, show
from superres.environment import cpu_threads
from superres.files import write_json
from superres.image import Picture
from superres.upscale import Upscaler

ROOT = Path(__file__).parents[1]
WAYS = (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One model on one backend; megapixels are those of the answer."""

    model: str
    backend: str
    precision: str
    device: str
    seconds: float
    megapixels_per_second: float


def main(argv: list[str]) -> int:
    """Measure every bundle in a folder, show the table and write it down."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of bundles")
    parser.add_argument("--height", type=int, default=270)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench.json")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args(argv)
    bundles = [load_bundle(path.parent) for path in sorted(words.models.glob("*/bundle.json"))]
    if not bundles:
        say(f"bench: there is no bundle in {words.models}")
        return 1
    picture = noise_picture(words.height, words.width)
    speeds = [speed for bundle in bundles for speed in measured(bundle, picture, words.runs)]
    machine = {"cpu": cpu_name(), "threads": cpu_threads()}
    size = {"height": words.height, "width": words.width, "runs": words.runs}
    result = {"machine": machine, "picture": size, "speeds": [asdict(speed) for speed in speeds]}
    write_json(words.out, result)
    if words.json:
        emit(result)
    else:
        show_table(speeds, f"{machine['cpu']}, {machine['threads']} threads")
    return 0


def measured(bundle: Bundle, picture: Picture, runs: int) -> Iterator[Speed]:
    """The speed of one bundle on every backend and precision that this machine has."""
    for name, precision in WAYS:
        try:
            backend = load_backend(bundle, backend=name, precision=precision)
        except BackendUnavailable as error:
            say(f"bench: {bundle.info.name} on {name} {precision} left out: {error}")
            continue
        seconds = median_seconds(Upscaler(bundle, backend), picture, runs)
        answer_megapixels = picture.pixels * bundle.info.scale**2 / 1e6
        yield Speed(
            model=bundle.info.name,
            backend=name,
            precision=precision,
            device=backend.device,
            seconds=round(seconds, 4),
            megapixels_per_second=round(answer_megapixels / seconds, 3),
        )
        backend.close()


def median_seconds(upscaler: Upscaler, picture: Picture, runs: int) -> float:
    """Median wall time of one picture, after a run that compiles and allocates."""
    upscaler.upscale(picture)
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        upscaler.upscale(picture)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def noise_picture(height: int, width: int) -> Picture:
    """A picture of noise; a network's time does not depend on what it is shown."""
    rgb_hwc = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(rgb_hwc=rgb_hwc)


def cpu_name() -> str:
    """What the processor calls itself."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def show_table(speeds: list[Speed], machine: str) -> None:
    """The figures as a Markdown table, ready for the README."""
    show(f"{machine}\n\n| model | backend | device | seconds | MP/s |\n|---|---|---|---|---|")
    for speed in speeds:
        way = f"{speed.backend} {speed.precision}"
        show(
            f"| {speed.model} | {way} | {speed.device} | {speed.seconds:.3f} "
            f"| {speed.megapixels_per_second:.2f} |"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
