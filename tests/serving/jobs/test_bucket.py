"""Pictures in a bucket: the store alone, and jobs over it, against a server that speaks S3."""

import asyncio
import hashlib
import threading
import tracemalloc

import httpx
import pytest

from serving.errors import JobGone, NotReady
from serving.jobs.bucket import PART_BYTES, UNFINISHED, BucketStore
from serving.jobs.store import FolderStore, all_of, new_blob
from superres.common.errors import SharplineError
from superres.image.codecs import decode

QUICK = {"heartbeat_seconds": 0.05, "poll_seconds": 0.05, "sweep_seconds": 0.05}
MEBIBYTE = bytes(1 << 20)


@pytest.fixture
def bucket(s3):
    return s3.bucket()


@pytest.fixture
def store(s3, bucket):
    return BucketStore(f"{bucket}/jobs", s3.endpoint, direct=True)


@pytest.fixture
def bucket_server(picture_server, models_folder, s3, bucket):
    """A maker of servers whose pictures are in the bucket."""
    started = []

    def start(**jobs):
        given = {**QUICK, "bucket": bucket, "bucket_endpoint": s3.endpoint, **jobs}
        started.append(picture_server(models_folder, jobs=given))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def label(response):
    return response.json()["type"].removeprefix("/problems/")


async def mebibytes(count):
    for _ in range(count):
        yield MEBIBYTE


async def broken(count):
    for _ in range(count):
        yield MEBIBYTE
    raise ConnectionError


@pytest.mark.parametrize("size", [0, 5, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 7])
def test_blob_comes_back_as_it_was_written_until_it_is_deleted(store, s3, bucket, size):
    blob, content = new_blob(), bytes(range(256)) * (size // 256 + 1)

    async def chunks():
        for start in range(0, size, 1 << 20):
            yield content[start : min(start + (1 << 20), size)]

    async def round_trip():
        written = await store.write(blob, chunks())
        assert written.bytes == size
        assert written.sha256 == hashlib.sha256(content[:size]).hexdigest()
        assert await all_of(store, blob) == content[:size]
        assert list(await store.modified_times()) == [blob]
        assert list(s3.objects(bucket)) == [f"jobs/{blob}"]
        await store.delete([blob, blob])
        with pytest.raises(JobGone):
            await all_of(store, blob)

    asyncio.run(round_trip())
    assert s3.objects(bucket) == {}


@pytest.mark.parametrize("count", [1, 20])
def test_source_that_breaks_off_leaves_no_part(store, s3, bucket, count):
    with pytest.raises(ConnectionError):
        asyncio.run(store.write(new_blob(), broken(count)))
    assert s3.objects(bucket) == {}


def test_parts_of_a_writer_that_was_killed_are_known_and_can_be_removed(store, s3, bucket):
    blob = new_blob()
    key = {"Bucket": bucket, "Key": f"jobs/{blob}"}
    begun = s3.client.create_multipart_upload(**key)["UploadId"]
    before = asyncio.run(store.modified_times())
    s3.client.upload_part(**key, UploadId=begun, PartNumber=1, Body=b"x")
    after = asyncio.run(store.modified_times())
    assert list(before) == list(after) == [f"{blob}{UNFINISHED}{begun}"]
    assert before != after  # it grew, so nobody takes it for a dead one's
    asyncio.run(store.delete([*after, *after]))
    assert s3.objects(bucket) == {}


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_memory_stays_flat_however_large_a_blob_is(store, tmp_path, kind):
    chosen = store if kind == "bucket" else FolderStore(tmp_path / "pictures")
    blob, count = new_blob(), 40

    async def round_trip():
        await chosen.write(blob, mebibytes(count))
        assert sum([len(chunk) async for chunk in chosen.read(blob)]) == count * len(MEBIBYTE)

    asyncio.run(chosen.write(new_blob(), mebibytes(1)))  # what is loaded once
    tracemalloc.start()
    try:
        asyncio.run(round_trip())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * PART_BYTES < count * len(MEBIBYTE)


class Slow:
    """A call of S3 that has begun and is held; what it answered, once it is let go on."""

    def __init__(self, monkeypatch, client, operation):
        self._call = getattr(client, operation)
        self._begun, self._go_on = threading.Event(), threading.Event()
        self.answers = []
        monkeypatch.setattr(client, operation, self)

    def __call__(self, **given):
        self._begun.set()
        assert self._go_on.wait(60)
        self.answers.append(self._call(**given))
        return self.answers[-1]

    async def cancel_in_the_middle(self, work):
        task = asyncio.create_task(work)
        await asyncio.to_thread(self._begun.wait, 60)
        task.cancel()
        asyncio.get_running_loop().call_later(0.01, self._go_on.set)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


def test_reader_that_is_stopped_while_the_bucket_answers_keeps_no_connection(store, monkeypatch):
    blob = new_blob()
    asyncio.run(store.write(blob, mebibytes(1)))
    slow = Slow(monkeypatch, store._s3, "get_object")
    asyncio.run(slow.cancel_in_the_middle(all_of(store, blob)))
    [answer] = slow.answers
    assert answer["Body"]._raw_stream.closed


def test_writer_that_is_stopped_while_its_upload_begins_leaves_no_part(
    store, s3, bucket, monkeypatch
):
    slow = Slow(monkeypatch, store._s3, "create_multipart_upload")
    asyncio.run(slow.cancel_in_the_middle(store.write(new_blob(), mebibytes(20))))
    assert len(slow.answers) == 1
    assert asyncio.run(store.modified_times()) == {}
    assert s3.objects(bucket) == {}


def test_bucket_that_keeps_versions_or_is_not_there_is_refused(s3):
    with pytest.raises(SharplineError, match="keeps versions"):
        BucketStore(s3.bucket(versions=True), s3.endpoint, direct=True)
    with pytest.raises(SharplineError, match="cannot be used"):
        BucketStore("nobody-made-it", s3.endpoint, direct=True)


def test_bucket_that_goes_away_is_told_as_come_back_later(s3_servers):
    server = s3_servers()
    store = BucketStore(server.bucket(), server.endpoint, direct=True)
    server.stop()
    with pytest.raises(NotReady):
        asyncio.run(store.write(new_blob(), mebibytes(1)))


def test_server_without_its_bucket_enlarges_and_has_no_jobs(bucket_server, noise_png):
    server = bucket_server(bucket="nobody-made-it")
    assert server.client.post("/v1/enhance", content=noise_png(8, 8)).status_code == 200
    refused = server.client.post("/v1/jobs", content=noise_png(8, 8))
    assert (refused.status_code, label(refused)) == (503, "not-ready")
    assert "Retry-After" in refused.headers


def test_picture_goes_straight_to_the_bucket_and_its_answer_comes_from_there(
    bucket_server, s3, bucket, noise_png, repeated
):
    api, picture = bucket_server().client, noise_png(10, 12)
    digest = hashlib.sha256(picture).hexdigest()
    announced = {"bytes": len(picture), "sha256": digest}
    upload = api.post("/v1/uploads", json=announced).json()
    assert upload["put"].startswith(f"{s3.endpoint}/{bucket}/")
    assert httpx.put(upload["put"], content=picture).status_code == 200
    inputs = {"inputs": [{"upload": upload["upload"], "name": "a.png"}]}
    job = api.post("/v1/jobs?format=png", json=inputs).json()
    job = api.get(f"/v1/jobs/{job['id']}?wait=30").json()
    assert job["state"] == "done"

    link = api.get(job["pictures"][0]["result"])
    assert link.status_code == 307
    assert link.headers["Sharpline-Model"] == "compact_x2"
    direct = httpx.get(link.headers["Location"])
    assert direct.headers["Content-Type"] == "image/png"
    assert 'filename="a.png"' in direct.headers["Content-Disposition"]
    through = api.get(f"/v1/jobs/{job['id']}/result")
    assert through.content == direct.content
    assert (decode(through.content).rgb_hwc == repeated(decode(picture).rgb_hwc)).all()

    assert len(s3.objects(bucket)) == 1
    assert api.delete(f"/v1/jobs/{job['id']}").status_code == 200
    assert s3.objects(bucket) == {}
    assert httpx.get(link.headers["Location"]).status_code in (403, 404)


def test_what_is_sent_to_an_address_after_its_job_has_begun_is_swept_away(
    bucket_server, s3, bucket, noise_png, repeated, monkeypatch
):
    monkeypatch.setattr("serving.jobs.reaper.UNKNOWN_SECONDS", 0.2)
    server, picture = bucket_server(), noise_png(10, 12)
    api = server.client
    upload = api.post("/v1/uploads", json={"bytes": len(picture)}).json()
    httpx.put(upload["put"], content=picture)
    job = api.post("/v1/jobs", json={"inputs": [{"upload": upload["upload"]}]}).json()
    httpx.put(upload["put"], content=b"something else")
    job = api.get(f"/v1/jobs/{job['id']}?wait=30").json()
    answer = api.get(f"/v1/jobs/{job['id']}/result").content
    assert (decode(answer).rgb_hwc == repeated(decode(picture).rgb_hwc)).all()
    server.wait_for(lambda: list(s3.objects(bucket).values()) == [answer])


@pytest.mark.parametrize(
    ("announced", "sent"),
    [
        ({"bytes": 5}, b"1234"),
        ({"bytes": 5}, b"123456"),
        ({"bytes": 5, "sha256": "0" * 64}, b"12345"),
    ],
)
def test_what_was_sent_straight_but_is_not_what_was_announced_is_not_kept(
    bucket_server, s3, bucket, announced, sent
):
    api = bucket_server().client
    upload = api.post("/v1/uploads", json=announced).json()
    httpx.put(upload["put"], content=sent)
    inputs = {"inputs": [{"upload": upload["upload"]}]}
    refused = api.post("/v1/jobs", json=inputs)
    assert (refused.status_code, label(refused)) == (422, "upload-mismatch")
    assert s3.objects(bucket) == {}
    again = api.post("/v1/jobs", json=inputs)  # nothing has arrived that could be worked on
    assert (again.status_code, label(again)) == (422, "upload-mismatch")
    httpx.put(upload["put"], content=b"12345")
    if "sha256" not in announced:
        assert api.post("/v1/jobs", json=inputs).status_code == 202


def test_clients_that_cannot_reach_the_bucket_go_through_the_server(
    bucket_server, s3, bucket, noise_png
):
    server = bucket_server(bucket_direct=False)
    api, picture = server.client, noise_png(8, 8)
    upload = api.post("/v1/uploads", json={"bytes": len(picture)}).json()
    assert upload["put"].startswith(server.url)
    assert api.put(upload["put"], content=picture).status_code == 204
    inputs = {"inputs": [{"upload": upload["upload"]}]}
    job = api.post("/v1/jobs?delete_on_fetch=true", json=inputs).json()
    job = api.get(f"/v1/jobs/{job['id']}?wait=30").json()
    assert api.get(job["pictures"][0]["result"]).status_code == 200
    server.wait_for(lambda: api.get(f"/v1/jobs/{job['id']}").json()["state"] == "deleted")
    server.wait_for(lambda: s3.objects(bucket) == {})
