"""Ten times a server's capacity: admitted requests are answered, others get a Retry-After.

The device is held while requests arrive, so that their speed does not decide how many are admitted.
"""

import asyncio
import re
from contextlib import asynccontextmanager

import httpx
import pytest

CAPACITY = 4  # pictures that the limit on waiting time admits at once
REQUESTS = 40


@pytest.fixture
def held_server(fake_server, tmp_path):
    """A server that admits a picture behind three others of its size, and its hold file."""
    hold = tmp_path / "hold"
    url = fake_server(
        FAKE_SECONDS="0.02",
        FAKE_HOLD=str(hold),
        SHARPLINE_QUEUE__MAX_WAIT_SECONDS="0.001",
        SHARPLINE_QUEUE__MAX_STRETCH=str(CAPACITY + 0.5),
        SHARPLINE_BATCH__MAX_TILES="1",
    )[1]
    return url, hold


@asynccontextmanager
async def client_at(address):
    transport = httpx.AsyncHTTPTransport(
        local_address=address, limits=httpx.Limits(max_connections=2 * REQUESTS)
    )
    async with httpx.AsyncClient(transport=transport, timeout=120) as client:
        yield client


async def pictures_in_flight(client, url):
    """Pictures in flight, and how many of them (one tile each) are queued or on the device."""
    text = (await client.get(f"{url}/metrics")).text
    in_flight = re.search(r"^sharpline_pictures_in_flight (\S+)", text, re.MULTILINE)[1]
    queued = re.search(r"^sharpline_queue_tiles\S+ (\S+)", text, re.MULTILINE)[1]
    return int(float(in_flight)), int(float(queued)) + 1


async def send_held(client, url, data, count, before=0):
    """`count` requests of one client, once each is refused or admitted; the device is held."""
    tasks = [
        asyncio.create_task(client.post(f"{url}/v1/enhance", content=data)) for _ in range(count)
    ]
    while True:
        in_flight, at_device = await pictures_in_flight(client, url)
        if in_flight == at_device == before + sum(not task.done() for task in tasks):
            return tasks


def test_overload_refuses_at_once_and_answers_admitted_requests(held_server, flat_png, soak):
    url, hold = held_server
    data = flat_png(90)

    async def overload():
        async with client_at("127.0.0.1") as client:
            hold.touch()
            tasks = await send_held(client, url, data, REQUESTS)
            refused = [task.result() for task in tasks if task.done()]
            hold.unlink()
            answers = await asyncio.gather(*tasks)
            admitted = [answer for answer in answers if answer not in refused]
            again = await client.post(f"{url}/v1/enhance", content=data)
            return admitted, refused, again

    for _ in range(40 if soak else 4):
        admitted, refused, again = asyncio.run(overload())
        assert {answer.status_code for answer in admitted} == {200}
        assert 1 <= len(admitted) <= CAPACITY
        for answer in refused:
            assert (answer.status_code, answer.json()["type"]) == (429, "/problems/queue-full")
            assert int(answer.headers["Retry-After"]) >= 1
        assert again.status_code == 200, "the server is idle again"


def test_second_client_is_admitted_during_overload_by_the_first(held_server, flat_png):
    """All requests of the first client come from one address; the second shares the device."""
    url, hold = held_server
    data = flat_png(90)

    async def two_clients():
        async with client_at("127.0.0.1") as first, client_at("127.0.0.2") as second:
            hold.touch()
            tasks = await send_held(first, url, data, REQUESTS)
            admitted = sum(not task.done() for task in tasks)
            assert admitted < REQUESTS, "the first client has its full share"
            [answer] = await send_held(second, url, data, 1, before=admitted)
            hold.unlink()
            await asyncio.gather(*tasks)
            return (await answer).status_code

    assert asyncio.run(two_clients()) == 200
