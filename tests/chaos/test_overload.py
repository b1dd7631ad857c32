"""Ten times what a server can do: who is let in is answered, the others hear when to come back.

The device is held while they come, so that what is let in does not depend on how fast they do.
"""

import asyncio
import re
from contextlib import asynccontextmanager

import httpx
import pytest

CAPACITY = 4  # pictures that the limit on waiting lets in beside each other
CROWD = 40


@pytest.fixture
def held_server(fake_server, tmp_path):
    """A server that lets a picture wait for as long as three others like it, and its hold file."""
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
        local_address=address, limits=httpx.Limits(max_connections=2 * CROWD)
    )
    async with httpx.AsyncClient(transport=transport, timeout=120) as client:
        yield client


async def at_work(client, url):
    """Pictures in flight and how many of them, being of one tile each, have it at the device."""
    text = (await client.get(f"{url}/metrics")).text
    in_flight = re.search(r"^sharpline_pictures_in_flight (\S+)", text, re.MULTILINE)[1]
    queued = re.search(r"^sharpline_queue_tiles\S+ (\S+)", text, re.MULTILINE)[1]
    return int(float(in_flight)), int(float(queued)) + 1


async def sent(client, url, data, count, before=0):
    """`count` pictures of one client, once each is refused or let in; the device is held."""
    tasks = [
        asyncio.create_task(client.post(f"{url}/v1/enhance", content=data)) for _ in range(count)
    ]
    while True:
        in_flight, at_device = await at_work(client, url)
        if in_flight == at_device == before + sum(not task.done() for task in tasks):
            return tasks


def test_overload_refuses_at_once_and_answers_whom_it_let_in(held_server, flat_png, soak):
    url, hold = held_server
    data = flat_png(90)

    async def storm():
        async with client_at("127.0.0.1") as client:
            hold.touch()
            tasks = await sent(client, url, data, CROWD)
            refused = [task.result() for task in tasks if task.done()]
            hold.unlink()
            answers = await asyncio.gather(*tasks)
            let_in = [answer for answer in answers if answer not in refused]
            again = await client.post(f"{url}/v1/enhance", content=data)
            return let_in, refused, again

    for _ in range(40 if soak else 4):
        let_in, refused, again = asyncio.run(storm())
        assert {answer.status_code for answer in let_in} == {200}
        assert 1 <= len(let_in) <= CAPACITY
        for answer in refused:
            assert (answer.status_code, answer.json()["type"]) == (429, "/problems/queue-full")
            assert int(answer.headers["Retry-After"]) >= 1
        assert again.status_code == 200, "nobody else is there any more"


def test_one_client_behind_a_crowd_is_let_in(held_server, flat_png):
    """The crowd comes from one address, as one client; another one shares the device with it."""
    url, hold = held_server
    data = flat_png(90)

    async def crowd_and_one():
        async with client_at("127.0.0.1") as many, client_at("127.0.0.2") as one:
            hold.touch()
            crowd = await sent(many, url, data, CROWD)
            let_in = sum(not task.done() for task in crowd)
            assert let_in < CROWD, "the crowd has all that one client gets"
            [alone] = await sent(one, url, data, 1, before=let_in)
            hold.unlink()
            await asyncio.gather(*crowd)
            return (await alone).status_code

    assert asyncio.run(crowd_and_one()) == 200
