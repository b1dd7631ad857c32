"""The client with busy, unavailable and failing servers, and with a real one."""

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import numpy as np
import pytest

from serving.requests.keys import add_key
from sharpline.cli import run
from sharpline.client import (
    AsyncClient,
    Client,
    EnhanceOptions,
    RequestRefused,
    RetryPolicy,
    ServerUnavailable,
    enhance_folder,
)
from sharpline.client.folder import LEDGER
from superres.common.errors import SharplineError
from superres.image.codecs import Picture, decode, encode, read, write
from superres.image.passport import read_passport

LEVELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
PNG = encode(Picture(rgb_hwc=LEVELS), "png")
BUSY = {"type": "/problems/queue-full", "title": "Queue full", "status": 429, "detail": "full"}
NO_JITTER = RetryPolicy(jitter=lambda: 1.0)


class Server:
    """A mock server: returns the given responses in order, then repeats the last one."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.slept = []

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **given):
        given = {"retry_policy": NO_JITTER, **given}
        transport = httpx.MockTransport(self)
        return Client("http://server", transport=transport, sleep=self.slept.append, **given)

    def async_client(self, **given):
        async def sleep(seconds):
            self.slept.append(seconds)

        given = {"retry_policy": NO_JITTER, **given}
        transport = httpx.MockTransport(self)
        return AsyncClient("http://server", transport=transport, sleep=sleep, **given)


def busy(retry_after=None, status=429):
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, json=BUSY, headers=headers)


def good():
    headers = {
        "Content-Type": "image/png",
        "Sharpline-Model": "compact_x4",
        "Sharpline-Bundle": "ab" * 32,
        "X-Request-ID": "r-1",
    }
    return httpx.Response(200, content=PNG, headers=headers)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_retry_after_is_honoured_exactly(kind):
    server = Server(busy("7"), busy("2", 503), good())
    if kind == "sync":
        with server.client() as client:
            answer = client.enhance(PNG, EnhanceOptions(model="auto", keep_metadata=True))
    else:

        async def ask():
            async with server.async_client() as client:
                return await client.enhance(PNG, EnhanceOptions(model="auto", keep_metadata=True))

        answer = asyncio.run(ask())
    assert server.slept == [7.0, 2.0]
    assert (answer.data, answer.format, answer.model) == (PNG, "png", "compact_x4")
    assert answer.request == "r-1"
    assert dict(server.requests[-1].url.params) == {"model": "auto", "keep_metadata": "true"}


def test_retry_after_may_be_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    server = Server(busy(soon), busy(past), good())
    with server.client() as client:
        client.enhance(PNG)
    assert 0 < server.slept[0] <= 30
    assert server.slept[1] == 0


def test_a_retry_after_above_the_maximum_ends_the_retries():
    server = Server(busy("3600"), good())
    with server.client() as client, pytest.raises(RequestRefused, match="full") as refusal:
        client.enhance(PNG)
    assert (refusal.value.status, refusal.value.label) == (429, "queue-full")
    assert server.slept == []
    assert len(server.requests) == 1


def test_without_retry_after_the_backoff_doubles_up_to_a_cap():
    server = Server(busy("soon"))
    retry_policy = RetryPolicy(attempts=6, max_pause_seconds=3.0, jitter=lambda: 1.0)
    with server.client(retry_policy=retry_policy) as client, pytest.raises(RequestRefused):
        client.enhance(PNG)
    assert server.slept == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert len(server.requests) == 6


def test_jitter_is_at_most_half_of_a_pause():
    assert RetryPolicy(jitter=lambda: 0.0).pause_seconds(1) == 0.25


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_broken_connection_is_retried(kind):
    broken = httpx.RemoteProtocolError("peer closed connection without sending complete body")
    server = Server(httpx.ConnectError("refused"), broken, good())
    if kind == "sync":
        with server.client() as client:
            assert client.enhance(PNG).data == PNG
    else:

        async def ask():
            async with server.async_client() as client:
                return await client.enhance(PNG)

        assert asyncio.run(ask()).data == PNG
    assert server.slept == [0.5, 1.0]


def test_an_unavailable_server_is_named_with_the_reason():
    server = Server(httpx.ConnectError("Connection refused"))
    with (
        server.client(retry_policy=RetryPolicy(attempts=2)) as client,
        pytest.raises(ServerUnavailable) as unavailable,
    ):
        client.models()
    expected = "http://server did not respond after 2 attempts: Connection refused"
    assert expected in str(unavailable.value)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (httpx.Response(422, json={**BUSY, "type": "/problems/bad-options"}), "bad-options"),
        (httpx.Response(500, text="<html>"), "unknown"),
        (httpx.Response(404, json=["odd"]), "unknown"),
    ],
)
def test_permanent_errors_are_not_retried(answer, label):
    server = Server(answer)
    with server.client() as client, pytest.raises(RequestRefused) as refusal:
        client.enhance(PNG)
    assert refusal.value.label == label
    assert len(server.requests) == 1


@pytest.fixture
def folder(tmp_path):
    """Three pictures."""
    for number in range(3):
        write(tmp_path / "in" / f"{number}.png", Picture(rgb_hwc=LEVELS + np.uint8(number)))
    return tmp_path / "in"


def through(server, folder, out, **options):
    """`enhance_folder` with a mock server."""

    async def enhance():
        async with server.async_client() as client:
            return await enhance_folder(client, [folder], out, **options)

    return asyncio.run(enhance())


def test_an_interrupted_folder_is_resumed(folder, tmp_path):
    out = tmp_path / "out"
    refused = httpx.ConnectError("refused")
    server = Server(good(), *[refused] * 20)
    with pytest.raises(ServerUnavailable):
        through(server, folder, out, workers=1)
    assert [path.name for path in out.glob("*.png")] == ["0.png"]
    server = Server(good())
    on_progress = []
    report = through(
        server, folder, out, on_progress=lambda done, total: on_progress.append((done, total))
    )
    assert [path.name for path in report.skipped] == ["0.png"]
    assert sorted(path.name for path in report.written) == ["1.png", "2.png"]
    assert on_progress[-1] == (3, 3)
    server = Server(good())
    assert len(through(server, folder, out).skipped) == 3
    assert server.requests == []


def test_changed_inputs_and_options_are_enhanced_again(folder, tmp_path):
    out = tmp_path / "out"
    through(Server(good()), folder, out)
    write(folder / "1.png", Picture(rgb_hwc=LEVELS[::-1]))
    (out / "2.png").unlink()
    report = through(Server(good()), folder, out)
    assert sorted(path.name for path in report.written) == ["1.png", "2.png"]
    report = through(Server(good()), folder, out, options=EnhanceOptions(model="other"))
    assert len(report.written) == 3


def test_a_truncated_ledger_loses_one_entry_at_most(folder, tmp_path):
    out = tmp_path / "out"
    through(Server(good()), folder, out, workers=1)
    ledger = out / LEDGER
    ledger.write_bytes(ledger.read_bytes()[:-20])
    (out / "2.png").unlink()
    report = through(Server(good()), folder, out)
    assert [path.name for path in report.written] == ["2.png"]
    assert len(through(Server(good()), folder, out).skipped) == 3


def test_an_output_whose_replacement_was_interrupted_may_be_replaced(folder, tmp_path):
    out = tmp_path / "out"
    through(Server(good()), folder, out)
    entry = json.loads((out / LEDGER).read_bytes().splitlines()[0])
    newer = {**entry, "target_sha256": "0" * 64}
    with (out / LEDGER).open("a") as file:
        file.write(json.dumps(newer) + "\n")
    report = through(Server(good()), folder, out)
    assert [path.name for path in report.written] == [entry["target"]]


def test_other_files_are_replaced_only_with_overwrite(folder, tmp_path):
    write(tmp_path / "out" / "1.png", Picture(rgb_hwc=LEVELS))
    before = (tmp_path / "out" / "1.png").read_bytes()
    server = Server(good())
    with pytest.raises(SharplineError, match=r"1\.png exists and was not written"):
        through(server, folder, tmp_path / "out")
    assert server.requests == []
    assert (tmp_path / "out" / "1.png").read_bytes() == before
    assert len(through(server, folder, tmp_path / "out", overwrite=True).written) == 3


def test_a_refused_key_ends_the_run_and_a_bad_picture_does_not(folder, tmp_path):
    bad = httpx.Response(422, json={**BUSY, "type": "/problems/broken-picture"})
    report = through(Server(good(), bad, good()), folder, tmp_path / "a", workers=1)
    assert (len(report.written), len(report.failed)) == (2, 1)
    server = Server(httpx.Response(401, json={**BUSY, "type": "/problems/bad-key"}))
    with pytest.raises(RequestRefused):
        through(server, folder, tmp_path / "b", workers=1)
    assert len(server.requests) == 1


@pytest.fixture(scope="module")
def real(module_picture_server, tiny_bundle, tmp_path_factory):
    """A real server with a key, and the key."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    _, secret = add_key(keys, "tests")
    bundle = tiny_bundle()
    server = module_picture_server(
        bundle.root.parent,
        jobs={"folder": tmp_path_factory.mktemp("jobs")},
        security={"keys_file": keys},
        until="/livez",
    )
    server.wait_for(lambda: server.services.pictures.models.champions)
    yield server, secret
    server.stop()


def test_the_command_enlarges_a_folder_through_a_server(
    real, folder, tmp_path, monkeypatch, capsys
):
    server, secret = real
    (folder / "text.png").write_text("no picture")
    (tmp_path / "key").write_text(secret + "\n")
    arguments = ["--url", server.url, "--key-file", str(tmp_path / "key")]
    command = ["client", "enhance", str(folder), "-o", str(tmp_path / "out"), *arguments]
    assert run([*command, "--model", "auto", "--json"]) == 1
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert len(report["written"]) == 3
    assert report["failed"][0]["picture"].endswith("text.png")
    assert "not-a-picture" in printed.err
    large = read(tmp_path / "out" / "0.png").rgb_hwc
    assert np.array_equal(large, LEVELS.repeat(2, axis=0).repeat(2, axis=1))
    passport = read_passport((tmp_path / "out" / "0.png").read_bytes())
    assert passport.last.model == "compact_x2"

    (folder / "text.png").unlink()
    assert run([*command, "--model", "auto"]) == 0
    assert "3 already done" in capsys.readouterr().out
    monkeypatch.setenv("SHARPLINE_KEY", secret)
    monkeypatch.setenv("SHARPLINE_URL", server.url)
    assert run(["client", "models"]) == 0
    assert "compact_x2 (default): super-resolution x2" in capsys.readouterr().out
    assert run(["client", "models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "compact_x2"


def test_a_job_is_submitted_awaited_fetched_and_deleted(real):
    server, secret = real
    other = encode(Picture(rgb_hwc=LEVELS[::-1]), "png")
    with Client(server.url, key=secret) as client:
        job = client.wait(
            client.submit({"a.png": PNG, "b.png": other}, EnhanceOptions(format="png")).id
        )
        assert (job.state, job.pictures_done, job.finished) == ("done", 2, True)
        large = decode(client.fetch(job.id, 1).data).rgb_hwc
        assert np.array_equal(large, LEVELS[::-1].repeat(2, axis=0).repeat(2, axis=1))
        assert read_passport(client.fetch(job.id).data).last.model == "compact_x2"
        assert client.delete(job.id)["job"] == job.id
        with pytest.raises(RequestRefused) as refusal:
            client.fetch(job.id)
    assert refusal.value.status == 410


def test_async_fetch_raises_the_problem_of_a_failed_picture(real):
    server, secret = real

    async def failed_job():
        async with AsyncClient(server.url, key=secret) as client:
            job = await client.wait((await client.submit({"a.png": b"no picture at all......"})).id)
            with pytest.raises(RequestRefused, match="not-a-picture"):
                await client.fetch(job.id)
            await client.delete(job.id)
            return job

    assert asyncio.run(failed_job()).finished


def test_a_retried_job_keeps_its_idempotency_key():
    accepted = {"id": "ab" * 16, "state": "queued", "queue_position": 3, "progress": {}}
    progress = dict.fromkeys(("pictures_done", "pictures_total", "tiles_done", "tiles_total"), 0)
    server = Server(busy("1"), httpx.Response(202, json={**accepted, "progress": progress}))
    with server.client() as client:
        job = client.submit({"a.png": PNG})
    assert (job.queue_position, job.finished) == (3, False)
    first, second = (request.headers["Idempotency-Key"] for request in server.requests)
    assert first == second


def test_wrong_keys_and_arguments_have_their_exit_codes(real, folder, tmp_path, capsys):
    server, _ = real
    assert os.environ.get("SHARPLINE_KEY") is None
    where = ["-o", str(tmp_path / "out"), "--url", server.url]
    assert run(["client", "enhance", str(folder), *where]) == 1
    assert "bad-key" in capsys.readouterr().err
    assert run(["client", "enhance", str(folder), *where, "--workers", "0"]) == 2
    assert run(["client", "models", "--url", server.url, "--attempts", "0"]) == 2
    assert run(["client", "models", "--key-file", str(tmp_path / "none")]) == 1
    assert run(["client", "enhance", str(tmp_path / "nothing"), *where]) == 1
    unavailable = ["client", "models", "--url", "http://127.0.0.1:9", "--attempts", "1"]
    assert run(unavailable) == 1
    assert "did not respond after 1 attempt" in capsys.readouterr().err
