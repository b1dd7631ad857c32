"""Pictures per minute with eight clients on a mixed set: this server against a plain service.

Rounds alternate between the two servers, each with the whole set from all clients; results are sums
over the rounds. Core-seconds are reported too, because on a busy machine wall time is noisy. The
last line is the result as JSON.

    python bench/serving_throughput.py --models models --model compact_x4
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
from serving_common import (
    MIXED,
    EnhanceFunction,
    add_model_options,
    enhance_function,
    ours,
    percentile,
    pictures_of,
    plain,
)

from superres.common.console import emit, say


def main() -> None:
    arguments = _arguments()
    bundle = arguments.models / arguments.model
    pictures = pictures_of(MIXED) * arguments.repeat
    limits = httpx.Limits(max_connections=arguments.clients)
    with (
        # The plain service accepts every request; so does this one here, however long the wait.
        ours(bundle, SHARPLINE_QUEUE__MAX_WAIT_SECONDS="3600") as our_server,
        plain(bundle) as plain_server,
        httpx.Client(timeout=600, limits=limits) as client,
    ):
        path = f"/v1/enhance?model={arguments.model}&format=png"
        servers = {
            "ours": (our_server, enhance_function(client, our_server.url + path)),
            "plain": (plain_server, enhance_function(client, f"{plain_server.url}/enhance")),
        }
        walls = dict.fromkeys(servers, 0.0)
        cores = dict.fromkeys(servers, 0.0)
        waits: dict[str, list[float]] = {name: [] for name in servers}
        for number in range(arguments.rounds + 1):
            for name, (server, enhance) in servers.items():
                send_all = partial(_all_answered, enhance, pictures, arguments.clients)
                seconds, wall, core_seconds = server.measured(send_all)
                if number:  # the first round is a warm-up
                    walls[name] += wall
                    cores[name] += core_seconds
                    waits[name] += seconds
            say(f"round {number}: seconds {walls}, core-seconds {cores}")
        memory = our_server.peak_rss_mb
        plain_memory = plain_server.peak_rss_mb
    count = len(pictures) * arguments.rounds
    emit(
        {
            "model": arguments.model,
            "clients": arguments.clients,
            "pictures": count,
            "pictures_per_minute": round(60 * count / walls["ours"], 1),
            "plain_pictures_per_minute": round(60 * count / walls["plain"], 1),
            "times_more_pictures": round(walls["plain"] / walls["ours"], 2),
            "core_seconds_per_picture": round(cores["ours"] / count, 3),
            "plain_core_seconds_per_picture": round(cores["plain"] / count, 3),
            "times_less_work": round(cores["plain"] / cores["ours"], 2),
            "p50_seconds": round(percentile(waits["ours"], 50), 3),
            "p99_seconds": round(percentile(waits["ours"], 99), 3),
            "plain_p50_seconds": round(percentile(waits["plain"], 50), 3),
            "plain_p99_seconds": round(percentile(waits["plain"], 99), 3),
            "peak_rss_mb": round(memory),
            "plain_peak_rss_mb": round(plain_memory),
        }
    )


def _all_answered(enhance: EnhanceFunction, pictures: list[bytes], clients: int) -> list[float]:
    """Seconds of each picture, from `clients` clients that each send one after the other."""

    def timed(data: bytes) -> float:
        began = time.perf_counter()
        enhance(data)
        return time.perf_counter() - began

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(timed, pictures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=2, help="times the set is sent in a round")
    parser.add_argument("--clients", type=int, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    main()
