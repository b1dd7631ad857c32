"""Ten times what a server can do: who is let in is answered, the others hear when to come back."""

import asyncio

import httpx
import pytest

CAPACITY = 4  # pictures that the limit on waiting lets in beside each other


@pytest.fixture
def slow_server(fake_server):
    """One picture of one tile takes 50 ms; a picture may wait for eight others like itself."""
    return fake_server(
        FAKE_SECONDS="0.05",
        SHARPLINE_QUEUE__MAX_WAIT_SECONDS="0.2",
        SHARPLINE_QUEUE__MAX_STRETCH=str(CAPACITY),
        SHARPLINE_BATCH__MAX_TILES="1",
    )[1]


def test_overload_refuses_in_time_and_answers_whom_it_let_in(slow_server, flat_png, soak):
    rounds = 40 if soak else 4
    data = flat_png(90)

    async def storm():
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            return [
                answer
                for _ in range(rounds)
                for answer in await asyncio.gather(
                    *(client.post(f"{slow_server}/v1/enhance", content=data) for _ in range(40))
                )
            ]

    answers = asyncio.run(storm())
    let_in = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(let_in) + len(refused) == len(answers)
    assert len(let_in) >= rounds, "somebody is always served"
    assert len(refused) > len(let_in), "ten times too many came"
    for answer in refused:
        assert answer.json()["type"] == "/problems/queue-full"
        # A full house of these pictures is done within a second: nobody is sent away for longer.
        assert answer.headers["Retry-After"] == "1"


def test_one_client_behind_a_crowd_is_served(slow_server, flat_png):
    """The crowd comes from one address, as one client; another one shares the device with it."""

    async def crowd_and_one():
        crowd = httpx.AsyncHTTPTransport(local_address="127.0.0.1", retries=0)
        lone = httpx.AsyncHTTPTransport(local_address="127.0.0.2", retries=0)
        async with (
            httpx.AsyncClient(transport=crowd, timeout=60) as many,
            httpx.AsyncClient(transport=lone, timeout=60) as one,
        ):
            url, data = f"{slow_server}/v1/enhance", flat_png(90)
            waiting = [asyncio.create_task(many.post(url, content=data)) for _ in range(50)]
            while (
                "sharpline_pictures_in_flight 0.0" in (await one.get(f"{slow_server}/metrics")).text
            ):
                pass
            alone = [(await one.post(url, content=data)).status_code for _ in range(3)]
            await asyncio.gather(*waiting)
            return alone

    assert asyncio.run(crowd_and_one()) == [200, 200, 200]
