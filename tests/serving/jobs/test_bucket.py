"""The bucket store alone, and jobs with it, against an S3-compatible server."""

import asyncio
import hashlib
import threading
import tracemalloc

import httpx
import pytest

from serving.errors import JobGone, NotReady
from serving.jobs.bucket import PART_BYTES, UPLOAD_SEPARATOR, BucketStore
from serving.jobs.store import FolderStore, new_blob, read_all
from superres.common.errors import SharplineError
from superres.image.codecs import decode

FAST_POLLING = {"heartbeat_seconds": 0.05, "poll_seconds": 0.05, "sweep_seconds": 0.05}
MEBIBYTE = bytes(1 << 20)


@pytest.fixture
def bucket(s3):
    return s3.bucket()


@pytest.fixture
def store(s3, bucket):
    return BucketStore(f"{bucket}/jobs", s3.endpoint, direct=True)


@pytest.fixture
def bucket_server(picture_server, models_folder, s3, bucket):
    """A factory of servers that store pictures in the bucket."""
    servers = []

    def start(**jobs):
        given = {**FAST_POLLING, "bucket": bucket, "bucket_endpoint": s3.endpoint, **jobs}
        servers.append(picture_server(models_folder, jobs=given))
        return servers[-1]

    yield start
    for server in servers:
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
def test_blob_is_read_as_written_until_it_is_deleted(store, s3, bucket, size):
    blob, content = new_blob(), bytes(range(256)) * (size // 256 + 1)

    async def chunks():
        for start in range(0, size, 1 << 20):
            yield content[start : min(start + (1 << 20), size)]

    async def round_trip():
        written = await store.write(blob, chunks())
        assert written.bytes == size
        assert written.sha256 == hashlib.sha256(content[:size]).hexdigest()
        assert await read_all(store, blob) == content[:size]
        assert list(await store.change_markers()) == [blob]
        assert list(s3.objects(bucket)) == [f"jobs/{blob}"]
        await store.delete([blob, blob])
        with pytest.raises(JobGone):
            await read_all(store, blob)

    asyncio.run(round_trip())
    assert s3.objects(bucket) == {}


@pytest.mark.parametrize("count", [1, 20])
def test_failing_source_leaves_no_part(store, s3, bucket, count):
    with pytest.raises(ConnectionError):
        asyncio.run(store.write(new_blob(), broken(count)))
    assert s3.objects(bucket) == {}


def test_parts_of_a_killed_writer_are_listed_and_can_be_deleted(store, s3, bucket):
    blob = new_blob()
    key = {"Bucket": bucket, "Key": f"jobs/{blob}"}
    upload_id = s3.client.create_multipart_upload(**key)["UploadId"]
    before = asyncio.run(store.change_markers())
    s3.client.upload_part(**key, UploadId=upload_id, PartNumber=1, Body=b"x")
    after = asyncio.run(store.change_markers())
    assert list(before) == list(after) == [f"{blob}{UPLOAD_SEPARATOR}{upload_id}"]
    assert before != after  # a growing upload is not orphaned
    asyncio.run(store.delete([*after, *after]))
    assert s3.objects(bucket) == {}


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_memory_stays_flat_however_large_a_blob_is(store, tmp_path, kind):
    tested_store = store if kind == "bucket" else FolderStore(tmp_path / "pictures")
    blob, count = new_blob(), 40

    async def round_trip():
        await tested_store.write(blob, mebibytes(count))
        assert sum([len(chunk) async for chunk in tested_store.read(blob)]) == count * len(MEBIBYTE)

    asyncio.run(tested_store.write(new_blob(), mebibytes(1)))  # one-time allocations
    tracemalloc.start()
    try:
        asyncio.run(round_trip())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * PART_BYTES < count * len(MEBIBYTE)


class DelayedCall:
    """Blocks an S3 call after its start until it is resumed; records its responses."""

    def __init__(self, monkeypatch, client, operation):
        self._call = getattr(client, operation)
        self._started, self._resume = threading.Event(), threading.Event()
        self.responses = []
        monkeypatch.setattr(client, operation, self)

    def __call__(self, **given):
        self._started.set()
        assert self._resume.wait(60)
        self.responses.append(self._call(**given))
        return self.responses[-1]

    async def cancel_in_the_middle(self, work):
        task = asyncio.create_task(work)
        await asyncio.to_thread(self._started.wait, 60)
        task.cancel()
        asyncio.get_running_loop().call_later(0.01, self._resume.set)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


def test_reader_cancelled_during_the_request_keeps_no_connection(store, monkeypatch):
    blob = new_blob()
    asyncio.run(store.write(blob, mebibytes(1)))
    delayed = DelayedCall(monkeypatch, store._s3, "get_object")
    asyncio.run(delayed.cancel_in_the_middle(read_all(store, blob)))
    [response] = delayed.responses
    assert response["Body"]._raw_stream.closed


def test_writer_cancelled_while_its_upload_is_created_leaves_no_part(
    store, s3, bucket, monkeypatch
):
    delayed = DelayedCall(monkeypatch, store._s3, "create_multipart_upload")
    asyncio.run(delayed.cancel_in_the_middle(store.write(new_blob(), mebibytes(20))))
    assert len(delayed.responses) == 1
    assert asyncio.run(store.change_markers()) == {}
    assert s3.objects(bucket) == {}


def test_versioned_or_missing_bucket_is_refused(s3):
    with pytest.raises(SharplineError, match="has versioning"):
        BucketStore(s3.bucket(versions=True), s3.endpoint, direct=True)
    with pytest.raises(SharplineError, match="cannot be used"):
        BucketStore("nobody-made-it", s3.endpoint, direct=True)


def test_unavailable_bucket_raises_not_ready(s3_servers):
    server = s3_servers()
    store = BucketStore(server.bucket(), server.endpoint, direct=True)
    server.stop()
    with pytest.raises(NotReady):
        asyncio.run(store.write(new_blob(), mebibytes(1)))


def test_server_without_its_bucket_serves_requests_but_no_jobs(bucket_server, noise_png):
    server = bucket_server(bucket="nobody-made-it")
    assert server.client.post("/v1/enhance", content=noise_png(8, 8)).status_code == 200
    refused = server.client.post("/v1/jobs", content=noise_png(8, 8))
    assert (refused.status_code, label(refused)) == (503, "not-ready")
    assert "Retry-After" in refused.headers


def test_upload_and_result_use_presigned_urls_of_the_bucket(
    bucket_server, s3, bucket, noise_png, repeated
):
    api, picture = bucket_server().client, noise_png(10, 12)
    digest = hashlib.sha256(picture).hexdigest()
    declared = {"bytes": len(picture), "sha256": digest}
    upload = api.post("/v1/uploads", json=declared).json()
    assert upload["url"].startswith(f"{s3.endpoint}/{bucket}/")
    assert httpx.put(upload["url"], content=picture).status_code == 200
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


def test_bytes_sent_to_an_upload_url_after_its_job_was_submitted_are_swept(
    bucket_server, s3, bucket, noise_png, repeated, monkeypatch
):
    monkeypatch.setattr("serving.jobs.reaper.ORPHAN_SECONDS", 0.2)
    server, picture = bucket_server(), noise_png(10, 12)
    api = server.client
    upload = api.post("/v1/uploads", json={"bytes": len(picture)}).json()
    httpx.put(upload["url"], content=picture)
    job = api.post("/v1/jobs", json={"inputs": [{"upload": upload["upload"]}]}).json()
    httpx.put(upload["url"], content=b"something else")
    job = api.get(f"/v1/jobs/{job['id']}?wait=30").json()
    answer = api.get(f"/v1/jobs/{job['id']}/result").content
    assert (decode(answer).rgb_hwc == repeated(decode(picture).rgb_hwc)).all()
    server.wait_for(lambda: list(s3.objects(bucket).values()) == [answer])


@pytest.mark.parametrize(
    ("declared", "sent"),
    [
        ({"bytes": 5}, b"1234"),
        ({"bytes": 5}, b"123456"),
        ({"bytes": 5, "sha256": "0" * 64}, b"12345"),
    ],
)
def test_direct_upload_that_differs_from_its_declaration_is_deleted(
    bucket_server, s3, bucket, declared, sent
):
    api = bucket_server().client
    upload = api.post("/v1/uploads", json=declared).json()
    httpx.put(upload["url"], content=sent)
    inputs = {"inputs": [{"upload": upload["upload"]}]}
    refused = api.post("/v1/jobs", json=inputs)
    assert (refused.status_code, label(refused)) == (422, "upload-mismatch")
    assert s3.objects(bucket) == {}
    again = api.post("/v1/jobs", json=inputs)  # the upload has no bytes
    assert (again.status_code, label(again)) == (422, "upload-mismatch")
    httpx.put(upload["url"], content=b"12345")
    if "sha256" not in declared:
        assert api.post("/v1/jobs", json=inputs).status_code == 202


def test_without_direct_access_uploads_and_results_go_through_the_server(
    bucket_server, s3, bucket, noise_png
):
    server = bucket_server(bucket_direct=False)
    api, picture = server.client, noise_png(8, 8)
    upload = api.post("/v1/uploads", json={"bytes": len(picture)}).json()
    assert upload["url"].startswith(server.url)
    assert api.put(upload["url"], content=picture).status_code == 204
    inputs = {"inputs": [{"upload": upload["upload"]}]}
    job = api.post("/v1/jobs?delete_on_fetch=true", json=inputs).json()
    job = api.get(f"/v1/jobs/{job['id']}?wait=30").json()
    assert api.get(job["pictures"][0]["result"]).status_code == 200
    server.wait_for(lambda: api.get(f"/v1/jobs/{job['id']}").json()["state"] == "deleted")
    server.wait_for(lambda: s3.objects(bucket) == {})
