"""480x270 -> 1920x1080 PNG over HTTP: this server against a plain FastAPI service, in one run.

Requests alternate between the two servers, so that other load on the machine affects both alike.
The last line is the result as JSON: medians and core-seconds of each, and the difference of our
output from the same network in float32 on the whole picture.

    python bench/serving_latency.py --models models --model compact_x4
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from serving_common import add_model_options, enhance_function, ours, photo_like, plain

from superres.common.console import emit, say
from superres.image.codecs import decode
from superres.model.backends import load_backend
from superres.model.bundle import load_bundle
from superres.model.upscaler import Upscaler

HEIGHT, WIDTH = 270, 480


def main() -> None:
    arguments = _arguments()
    pictures = [photo_like(seed, HEIGHT, WIDTH) for seed in range(4)]
    bundle = arguments.models / arguments.model
    with (
        ours(bundle) as our_server,
        plain(bundle) as plain_server,
        httpx.Client(timeout=600) as client,
    ):
        enhance = enhance_function(
            client, f"{our_server.url}/v1/enhance?model={arguments.model}&format=png"
        )
        enhance_plain = enhance_function(client, f"{plain_server.url}/enhance")
        seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        cores: dict[str, list[float]] = {"ours": [], "plain": []}
        for number in range(arguments.rounds + 1):
            for name, server, enhance_one in (
                ("ours", our_server, enhance),
                ("plain", plain_server, enhance_plain),
            ):
                picture = pictures[number % len(pictures)]
                _, wall, core_seconds = server.measured(partial(enhance_one, picture))
                if number:  # the first round is a warm-up
                    seconds[name].append(wall)
                    cores[name].append(core_seconds)
            say(f"round {number}: { ({name: values[-1:] for name, values in seconds.items()}) }")
        difference = _difference(enhance(pictures[0]), bundle, pictures[0])
        ready = our_server.ready_seconds, our_server.ready_core_seconds
    p50 = {name: statistics.median(values) for name, values in seconds.items()}
    cpu = {name: statistics.median(values) for name, values in cores.items()}
    emit(
        {
            "input": f"{WIDTH}x{HEIGHT}",
            "model": arguments.model,
            "rounds": arguments.rounds,
            "p50_seconds": round(p50["ours"], 4),
            "plain_p50_seconds": round(p50["plain"], 4),
            "times_faster": round(p50["plain"] / p50["ours"], 2),
            "core_seconds": round(cpu["ours"], 3),
            "plain_core_seconds": round(cpu["plain"], 3),
            "times_less_work": round(cpu["plain"] / cpu["ours"], 2),
            "ready_seconds": round(ready[0], 2),
            "ready_core_seconds": round(ready[1], 2),
            **difference,
        }
    )


def _difference(output: bytes, bundle_folder: Path, data: bytes) -> dict[str, float]:
    """Difference between an output and the canonical result, in grey levels."""
    bundle = load_bundle(bundle_folder)
    upscaler = Upscaler(bundle, load_backend(bundle, backend="torch", precision="fp32"))
    canonical = upscaler.whole(decode(data)).rgb_hwc.astype(np.int16)
    levels = np.abs(decode(output).rgb_hwc.astype(np.int16) - canonical)
    return {
        "within_one_level_percent": round(100 * float(np.mean(levels <= 1)), 4),
        "max_levels_off": float(levels.max()),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--rounds", type=int, default=9, help="requests to each server")
    return parser.parse_args()


if __name__ == "__main__":
    main()
