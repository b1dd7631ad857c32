"""Ten times the sustainable load: latency of rejections and of accepted requests.

First eight clients send pictures one after the other, which saturates the server; then pictures
arrive at ten times that rate (open loop), from 32 client addresses. With --pictures a mixed set is
sent first and the slope of the server's memory reported. The last line is the result as JSON.

    python bench/serving_overload.py --seconds 20 --pictures 2000
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field

import httpx
import numpy as np
from serving_common import (
    SMALL,
    Server,
    add_model_options,
    ours,
    percentile,
    photo_like,
    pictures_of,
)

from superres.common.console import emit, say
from superres.common.errors import SharplineError

ADDRESSES = 32  # loopback addresses of the clients; each is one client to the server
SUSTAINED_CLIENTS = 8
OVERLOAD = 10


@dataclass
class Tally:
    """Seconds of accepted and rejected requests."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    retry_after: list[int] = field(default_factory=list)
    other: list[str] = field(default_factory=list)


class Clients:
    """HTTP clients, each from a loopback address of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients = [
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(
                    local_address=f"127.0.1.{number + 1}",
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
                ),
                timeout=300,
            )
            for number in range(ADDRESSES)
        ]

    async def send(self, number: int, data: bytes, tally: Tally) -> None:
        """Send a picture from one of the addresses and record the outcome."""
        began = time.perf_counter()
        try:
            response = await self._clients[number % ADDRESSES].post(self._url, content=data)
        except httpx.HTTPError as error:
            tally.other.append(type(error).__name__)
            return
        seconds = time.perf_counter() - began
        if response.status_code == 200:
            tally.answered.append(seconds)
        elif response.status_code == 429:
            tally.refused.append(seconds)
            tally.retry_after.append(int(response.headers["Retry-After"]))
        else:
            tally.other.append(str(response.status_code))


def main() -> None:
    arguments = _arguments()
    with ours(arguments.models / arguments.model) as server:
        emit(asyncio.run(_measured(server, arguments)))


async def _measured(server: Server, arguments: argparse.Namespace) -> dict[str, object]:
    clients = Clients(f"{server.url}/v1/enhance?model={arguments.model}&format=png")
    result: dict[str, object] = {"model": arguments.model, "ready_seconds": server.ready_seconds}
    if arguments.pictures:
        result |= await _memory(server, clients, arguments.pictures)
    data = photo_like(0, arguments.height, arguments.width)
    sustained = await _sustained(clients, data, arguments.seconds)
    if not sustained.answered:
        raise SharplineError("no request was answered in that time; increase --seconds")
    rate = len(sustained.answered) / arguments.seconds
    say(f"{rate:.2f} pictures a second with {SUSTAINED_CLIENTS} clients")
    before = server.rss_mb
    flood = await _flood(clients, data, OVERLOAD * rate, arguments.seconds)
    sustained_p99, flood_p99 = (percentile(tally.answered, 99) for tally in (sustained, flood))
    return result | {
        "sustained_per_second": round(rate, 3),
        "sustained_p99_seconds": round(sustained_p99, 3),
        "offered_per_second": round(OVERLOAD * rate, 2),
        "answered": len(flood.answered),
        "answered_per_second": round(len(flood.answered) / arguments.seconds, 3),
        "refused": len(flood.refused),
        "other": sorted(set(flood.other)),
        "accepted_p99_seconds": round(flood_p99, 3),
        "accepted_p99_times": round(flood_p99 / sustained_p99, 2),
        "refusal_p50_ms": round(1000 * percentile(flood.refused, 50), 1),
        "refusal_p99_ms": round(1000 * percentile(flood.refused, 99), 1),
        "retry_after_seconds": sorted(set(flood.retry_after)),
        "rss_growth_mb": round(server.rss_mb - before, 1),
        "peak_rss_mb": round(server.peak_rss_mb),
    }


async def _sustained(clients: Clients, data: bytes, seconds: float) -> Tally:
    """Closed loop: each client sends its next picture when the last one is answered."""
    tally = Tally()
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while time.perf_counter() < end:
            refused = len(tally.refused)
            await clients.send(number, data, tally)
            if len(tally.refused) > refused:  # honour Retry-After
                await asyncio.sleep(tally.retry_after[-1])

    await clients.send(0, data, Tally())
    await asyncio.gather(*(client(number) for number in range(SUSTAINED_CLIENTS)))
    return tally


async def _flood(clients: Clients, data: bytes, per_second: float, seconds: float) -> Tally:
    """Open loop: send pictures at a fixed rate, whether or not earlier ones were answered."""
    tally = Tally()
    tasks = []
    began = time.perf_counter()
    for number in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
        tasks.append(asyncio.create_task(clients.send(number, data, tally)))
    await asyncio.gather(*tasks)
    return tally


async def _memory(server: Server, clients: Clients, pictures: int) -> dict[str, object]:
    """The slope of memory use over the second half of many mixed pictures."""
    tally, samples = Tally(), []
    mixed = pictures_of(SMALL * 2)
    for first in range(0, pictures, len(mixed)):
        await asyncio.gather(*(clients.send(n, mixed[n], tally) for n in range(len(mixed))))
        samples.append((first, server.rss_mb))
        if first % 200 == 0:
            say(f"{first} pictures: {server.rss_mb:.0f} MB")
    late = np.array(samples[len(samples) // 2 :])
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    return {
        "pictures": len(tally.answered),
        "pictures_not_answered": len(tally.refused) + len(tally.other),
        "rss_mb_half_way": round(float(late[0, 1]), 1),
        "rss_mb_at_the_end": round(float(late[-1, 1]), 1),
        "rss_slope_kb_per_picture": round(1024 * slope, 2),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each load")
    parser.add_argument("--pictures", type=int, default=0, help="pictures for the memory slope")
    parser.add_argument("--height", type=int, default=270)
    parser.add_argument("--width", type=int, default=480)
    return parser.parse_args()


if __name__ == "__main__":
    main()
