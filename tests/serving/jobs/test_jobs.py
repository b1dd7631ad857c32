import asyncio
import hashlib
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from serving.errors import NotReady
from serving.jobs.rows import Input, NewJob
from serving.jobs.store import FolderStore, new_blob
from serving.jobs.table import JobTable
from serving.requests.keys import add_key

FAST_POLLING = {"heartbeat_seconds": 0.05, "poll_seconds": 0.05, "sweep_seconds": 0.05}


@pytest.fixture(scope="module")
def jobs_server(module_picture_server, tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs-models")
    shutil.copytree(tiny_bundle().root, folder / "compact_x2")
    return module_picture_server(folder, jobs={**FAST_POLLING, "max_pictures": 4})


@pytest.fixture
def api(jobs_server):
    with httpx.Client(base_url=jobs_server.url, timeout=60) as client:
        yield client


def finished(api, response):
    """The finished job of a 202 response."""
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    return api.get(f"/v1/jobs/{job['id']}", params={"wait": 50}).json()


def label(response):
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.json()["type"].removeprefix("/problems/")


def test_respond_async_gives_the_same_result_as_a_synchronous_request(api, noise_png):
    picture = noise_png(20, 30)
    at_once = api.post("/v1/enhance?format=png", content=picture)
    job = finished(
        api,
        api.post(
            "/v1/enhance?format=png", content=picture, headers={"Prefer": "respond-async, wait=5"}
        ),
    )
    assert job["state"] == "done"
    assert job["progress"]["pictures_done"] == 1
    later = api.get(f"/v1/jobs/{job['id']}/result")
    assert later.status_code == 200
    for name in ("Content-Type", "Sharpline-Model", "Sharpline-Bundle", "Sharpline-Consistency"):
        assert later.headers[name] == at_once.headers[name]
    assert later.headers["Content-Length"] == str(len(later.content))


def test_broken_picture_of_a_job_does_not_fail_the_others(api, noise_png):
    files = [("file", ("a.png", noise_png(8, 9))), ("file", ("broken.png", b"no picture"))]
    job = finished(api, api.post("/v1/jobs", files=files, data={"format": "webp"}))
    first, second = job["pictures"]
    assert (job["state"], first["state"], second["state"]) == ("done", "done", "failed")
    answer = api.get(f"/v1/jobs/{job['id']}/result", params={"n": 0})
    assert answer.headers["Content-Type"] == "image/webp"
    assert 'filename="a.webp"' in answer.headers["Content-Disposition"]
    refused = api.get(f"/v1/jobs/{job['id']}/result", params={"n": 1})
    assert (refused.status_code, label(refused)) == (415, "not-a-picture")
    assert second["problem"]["type"] == "/problems/not-a-picture"
    assert api.get(f"/v1/jobs/{job['id']}/result", params={"n": 2}).status_code == 404


def test_job_whose_only_picture_fails_has_the_synchronous_problem(api):
    job = finished(api, api.post("/v1/jobs", content=b"no picture"))
    assert (job["state"], job["problem"]["status"]) == ("failed", 415)


def test_upload_is_created_sent_and_processed(api, noise_png):
    picture = noise_png(10, 10)
    digest = hashlib.sha256(picture).hexdigest()
    upload = api.post("/v1/uploads", json={"bytes": len(picture), "sha256": digest}).json()
    assert api.put(upload["url"], content=picture).status_code == 204
    assert label(api.put(upload["url"], content=picture)) == "upload-gone"
    inputs = {"inputs": [{"upload": upload["upload"], "name": "x.png"}], "options": {"scale": 2}}
    key = {"Idempotency-Key": "upload-1"}
    job = finished(api, api.post("/v1/jobs", json=inputs, headers=key))
    assert job["state"] == "done"
    assert finished(api, api.post("/v1/jobs", json=inputs, headers=key))["id"] == job["id"]
    assert label(api.post("/v1/jobs", json=inputs)) == "unknown-upload"


@pytest.mark.parametrize(
    ("declared", "sent"),
    [
        ({"bytes": 5}, b"1234"),
        ({"bytes": 5}, b"123456"),
        ({"bytes": 5, "sha256": "0" * 64}, b"12345"),
    ],
)
def test_upload_that_differs_from_its_declaration_is_deleted(api, jobs_server, declared, sent):
    upload = api.post("/v1/uploads", json=declared).json()
    refused = api.put(upload["url"], content=sent)
    assert (refused.status_code, label(refused)) == (422, "upload-mismatch")
    job = api.post("/v1/jobs", json={"inputs": [{"upload": upload["upload"]}]})
    assert (job.status_code, label(job)) == (422, "upload-mismatch")
    assert not any(path.read_bytes() == sent for path in pictures_of(jobs_server))


def test_upload_can_be_retried_while_the_first_attempt_hangs(api, noise_png):
    picture = noise_png(10, 10)
    upload = api.post("/v1/uploads", json={"bytes": len(picture)}).json()
    hanging, resume = threading.Event(), threading.Event()

    def slowly():
        yield picture[:20]
        hanging.set()
        assert resume.wait(60)
        yield picture[20:]

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(httpx.put, upload["url"], content=slowly(), timeout=60)
        hanging.wait(60)
        assert api.put(upload["url"], content=picture).status_code == 204
        resume.set()
        assert first.result().status_code == 204
    inputs = {"inputs": [{"upload": upload["upload"]}]}
    assert finished(api, api.post("/v1/jobs", json=inputs))["state"] == "done"


def test_upload_and_its_url_expire(picture_server, models_folder):
    server = picture_server(models_folder, jobs={**FAST_POLLING, "upload_seconds": 0.1})
    with httpx.Client(base_url=server.url, timeout=60) as api:
        upload = api.post("/v1/uploads", json={"bytes": 5}).json()
        server.wait_for(lambda: api.put(upload["url"], content=b"1234").status_code != 422)
        late = api.put(upload["url"], content=b"12345")
        assert (late.status_code, label(late)) in [(410, "upload-gone"), (404, "unknown-upload")]
        inputs = {"inputs": [{"upload": upload["upload"]}]}
        refused = api.post("/v1/jobs", json=inputs)
        assert label(refused) in ("upload-gone", "unknown-upload")
        server.wait_for(lambda: pictures_of(server) == [])
    server.stop()


def test_upload_of_another_key_is_unknown(picture_server, models_folder, noise_png):
    keys = models_folder.with_name("keys.json")
    secrets = [add_key(keys, name)[1] for name in ("anna", "bob")]
    server = picture_server(models_folder, security={"keys_file": keys}, jobs=FAST_POLLING)
    anna_headers, bob_headers = ({"Authorization": f"Bearer {secret}"} for secret in secrets)
    with httpx.Client(base_url=server.url, timeout=60) as api:
        picture = noise_png(8, 8)
        upload = api.post("/v1/uploads", json={"bytes": len(picture)}, headers=anna_headers).json()
        assert api.put(upload["url"], content=picture).status_code == 204
        inputs = {"inputs": [{"upload": upload["upload"]}]}
        refused = api.post("/v1/jobs", json=inputs, headers=bob_headers)
        assert (refused.status_code, label(refused)) == (404, "unknown-upload")
        assert api.post("/v1/jobs", json=inputs, headers=anna_headers).status_code == 202
    server.stop()


def test_url_with_a_wrong_signature_is_refused(api):
    upload = api.post("/v1/uploads", json={"bytes": 5}).json()
    refused = api.put(upload["url"].replace("signature=", "signature=x"), content=b"12345")
    assert (refused.status_code, label(refused)) == (403, "bad-signature")


def test_upload_above_the_size_limit_is_refused(api):
    assert api.post("/v1/uploads", json={"bytes": 2**40}).status_code == 413


def test_fifty_equal_requests_at_once_are_one_job(api, jobs_server, noise_png):
    picture = noise_png(8, 8)

    def send(_):
        headers = {"Idempotency-Key": "fifty", "Prefer": "respond-async"}
        return httpx.post(
            f"{jobs_server.url}/v1/enhance", content=picture, headers=headers, timeout=60
        )

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(send, range(50)))
    assert {answer.status_code for answer in answers} == {202}
    [job_id] = {answer.json()["id"] for answer in answers}
    assert finished(api, answers[0])["state"] == "done"
    other = api.post("/v1/jobs", content=noise_png(8, 9), headers={"Idempotency-Key": "fifty"})
    assert (other.status_code, label(other)) == (422, "idempotency-key-reused")
    api.delete(f"/v1/jobs/{job_id}")


def test_events_report_the_job_until_it_is_finished(api, noise_png):
    job = api.post("/v1/jobs", content=noise_png(40, 40)).json()
    with api.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        lines = [line for line in stream.iter_lines() if line]
    states = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert states[-1]["state"] == "done"
    assert set(lines[::2]) == {"event: job"}


@pytest.fixture
def slow_server(picture_server, models_folder, numpy_backends):
    """A server with one worker whose backend blocks at its gate, and the backend."""
    server = picture_server(
        models_folder, load_backend=numpy_backends, jobs={**FAST_POLLING, "workers": 1}
    )
    [backend] = numpy_backends.made
    backend.gate.clear()
    yield server, backend
    backend.gate.set()
    server.stop()


def test_events_report_queue_position_and_finished_tiles(slow_server, noise_png):
    server, backend = slow_server
    api = server.client
    first, second, third = (
        api.post("/v1/jobs", content=noise_png(300, 300)).json()["id"] for _ in range(3)
    )
    server.wait_for(backend.held.is_set)
    events = []
    with api.stream("GET", f"/v1/jobs/{third}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if events[-1].get("queue_position") == 2:
                    assert api.delete(f"/v1/jobs/{second}").json()["state"] == "cancelled"
                if events[-1].get("queue_position") == 1:
                    backend.gate.set()
    assert [each["queue_position"] for each in events if "queue_position" in each][:2] == [2, 1]
    states = list(dict.fromkeys(each["state"] for each in events))
    assert states == ["queued", "running", "done"]
    last = events[-1]["progress"]
    assert last["tiles_done"] == last["tiles_total"] > 1
    assert api.get(f"/v1/jobs/{first}").json()["state"] == "done"


def test_running_job_is_cancelled_at_once_and_leaves_nothing(slow_server, noise_png):
    server, backend = slow_server
    api = server.client
    job = api.post("/v1/jobs", content=noise_png(40, 40)).json()["id"]
    server.wait_for(backend.held.is_set)
    receipt = api.delete(f"/v1/jobs/{job}").json()
    assert (receipt["state"], receipt["blobs"]) == ("cancelled", 1)
    assert pictures_of(server) == []
    gone = api.get(f"/v1/jobs/{job}/result")
    assert (gone.status_code, label(gone)) == (410, "job-gone")
    backend.gate.set()
    after = api.post("/v1/jobs", content=noise_png(40, 41)).json()["id"]
    assert api.get(f"/v1/jobs/{after}?wait=50").json()["state"] == "done"


def test_result_of_an_unfinished_job_is_a_conflict(slow_server, noise_png):
    server, _ = slow_server
    api = server.client
    job = api.post("/v1/jobs", content=noise_png(40, 40)).json()["id"]
    early = api.get(f"/v1/jobs/{job}/result")
    assert (early.status_code, label(early)) == (409, "job-not-finished")
    assert api.get(f"/v1/jobs/{job}", params={"wait": 0.05}).json()["state"] in (
        "queued",
        "running",
    )


def test_receipt_is_given_only_after_everything_is_deleted(
    picture_server, models_folder, noise_png, monkeypatch
):
    server = picture_server(models_folder, jobs=FAST_POLLING)
    api = server.client
    job = finished(api, api.post("/v1/jobs", content=noise_png(8, 8)))

    async def unavailable(store, blobs):
        raise NotReady("the disk is unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(FolderStore, "delete", unavailable)
        refused = api.delete(f"/v1/jobs/{job['id']}")
        assert (refused.status_code, label(refused)) == (503, "not-ready")
        view = api.get(f"/v1/jobs/{job['id']}").json()
        assert (view["state"], view["pictures"], view.get("receipt")) == ("deleted", [], None)
    assert api.delete(f"/v1/jobs/{job['id']}").json()["blobs"] == 1
    assert pictures_of(server) == []
    server.stop()


def test_jobs_resume_without_a_request_once_the_database_is_available(
    picture_server, models_folder, tmp_path, noise_png
):
    url, blob = f"sqlite:///{tmp_path}/db/jobs.db", new_blob()
    table, store = JobTable(url), FolderStore(tmp_path / "jobs" / "pictures")

    async def single_chunk():
        yield noise_png(8, 8)

    asyncio.run(store.write(blob, single_chunk()))
    new = NewJob(
        client="ip:127.0.0.1",
        request={"options": {}, "accept": "", "delete_on_fetch": False},
        inputs=(Input(blob=blob),),
        fingerprint="f",
        expires_ms=2**50,
    )
    job, _ = table.add(new, max_queued=1)
    table.close()
    (tmp_path / "db").rename(tmp_path / "away")
    (tmp_path / "db").touch()
    server = picture_server(
        models_folder, jobs={**FAST_POLLING, "folder": tmp_path / "jobs", "database": url}
    )
    refused = server.client.get(f"/v1/jobs/{job.id}")
    assert (refused.status_code, label(refused)) == (503, "not-ready")
    (tmp_path / "db").unlink()
    (tmp_path / "away").rename(tmp_path / "db")
    server.wait_for(lambda: table.get(job.id).state == "done")
    table.close()
    server.stop()


def test_result_has_a_signed_url_that_needs_no_key(picture_server, models_folder, noise_png):
    keys = models_folder.with_name("keys.json")
    _, anna = add_key(keys, "anna")
    _, bob = add_key(keys, "bob")
    server = picture_server(models_folder, security={"keys_file": keys}, jobs=FAST_POLLING)
    with httpx.Client(base_url=server.url, timeout=60) as api:
        anna_headers = {"Authorization": f"Bearer {anna}"}
        job = api.post("/v1/jobs", content=noise_png(8, 8), headers=anna_headers).json()
        address = f"/v1/jobs/{job['id']}"
        for method in ("GET", "DELETE"):
            refused = api.request(method, address, headers={"Authorization": f"Bearer {bob}"})
            assert (refused.status_code, label(refused)) == (404, "unknown-job")
            assert api.request(method, address).status_code == 401
        job = api.get(address, params={"wait": 50}, headers=anna_headers).json()
        link = job["pictures"][0]["result"]
        assert api.get(link).status_code == 200
        assert api.get(link.replace("n=0", "n=1")).status_code == 401
        assert api.get(f"{address}/result").status_code == 401
    server.stop()


def test_key_limits_priority_and_queued_jobs(
    picture_server, models_folder, numpy_backends, noise_png
):
    keys = models_folder.with_name("keys.json")
    _, anna = add_key(keys, "anna", max_priority=3, max_queued_jobs=2)
    _, bob = add_key(keys, "bob")
    server = picture_server(
        models_folder,
        load_backend=numpy_backends,
        security={"keys_file": keys},
        jobs={**FAST_POLLING, "workers": 1},
    )
    [backend] = numpy_backends.made

    def submit(key, **options):
        headers = {"Authorization": f"Bearer {key}"}
        picture = noise_png(8, 8)
        return server.client.post("/v1/jobs", content=picture, params=options, headers=headers)

    backend.gate.clear()
    try:
        first = submit(bob)
        server.wait_for(backend.held.is_set)
        jobs = [submit(anna, priority=9).json(), submit(bob, priority=4).json()]
        assert [job["priority"] for job in jobs] == [3, 4]
        anna_headers = {"Authorization": f"Bearer {anna}"}
        view = server.client.get(f"/v1/jobs/{jobs[0]['id']}", headers=anna_headers).json()
        assert view["queue_position"] == 2  # after bob's
        assert submit(anna).status_code == 202
        over = submit(anna)
        assert (over.status_code, label(over)) == (429, "quota-exceeded")
        assert "Retry-After" in over.headers
        assert submit(bob).status_code == 202
        server.wait_for(
            lambda: (
                'sharpline_jobs{state="queued"} 4.0' in server.client.get("/metrics").text
                and 'sharpline_jobs{state="running"} 1.0' in server.client.get("/metrics").text
            )
        )
    finally:
        backend.gate.set()
    assert first.status_code == 202
    server.stop()


def test_deletion_gives_a_receipt_that_can_be_verified(api, noise_png):
    job = finished(api, api.post("/v1/jobs", content=noise_png(8, 8)))
    receipt = api.delete(f"/v1/jobs/{job['id']}").json()
    assert (receipt["job"], receipt["state"], receipt["blobs"]) == (job["id"], "deleted", 1)
    assert api.post("/v1/receipts/verify", json=receipt).json() == {"valid": True}
    assert api.post("/v1/receipts/verify", json={**receipt, "blobs": 2}).json() == {"valid": False}
    for not_an_integer in (True, str(receipt["blobs"])):  # which Python would take for one
        refused = api.post("/v1/receipts/verify", json={**receipt, "blobs": not_an_integer})
        assert refused.status_code == 422
        assert api.post("/v1/uploads", json={"bytes": not_an_integer}).status_code == 422
    assert api.delete(f"/v1/jobs/{job['id']}").json() == receipt
    left = api.get(f"/v1/jobs/{job['id']}").json()
    assert (left["state"], left["receipt"], left["pictures"]) == ("deleted", receipt, [])
    gone = api.get(f"/v1/jobs/{job['id']}/result")
    assert (gone.status_code, label(gone)) == (410, "job-gone")


def test_delete_on_fetch_deletes_the_result(api, jobs_server, noise_png):
    files = [("file", (f"{n}.png", noise_png(8, 8 + n))) for n in range(2)]
    job = finished(api, api.post("/v1/jobs?delete_on_fetch=true", files=files))
    address = f"/v1/jobs/{job['id']}"
    assert api.get(f"{address}/result?n=0").status_code == 200
    jobs_server.wait_for(lambda: api.get(address).json()["pictures"][0]["state"] == "fetched")
    assert label(api.get(f"{address}/result?n=0")) == "job-gone"
    # Also for a client that closes the connection as soon as it has the last byte.
    assert httpx.get(f"{jobs_server.url}{address}/result?n=1").status_code == 200
    jobs_server.wait_for(lambda: api.get(address).json()["state"] == "deleted")


@pytest.mark.parametrize("part", ["", "/events", "/result"])
def test_unknown_job_is_not_found(api, part):
    unknown = api.get(f"/v1/jobs/{'0' * 32}{part}")
    assert (unknown.status_code, label(unknown)) == (404, "unknown-job")


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"inputs": []}},
        {"json": {"inputs": [{"upload": "0" * 32}] * 5}},
        {"content": b"x", "params": {"priority": 10}},
        {"files": [("file", ("a", b"x"))], "data": {"scale": "many"}},
    ],
)
def test_bad_options_are_refused_and_leave_nothing(api, jobs_server, request_):
    before = pictures_of(jobs_server)
    assert label(api.post("/v1/jobs", **request_)) == "bad-options"
    assert pictures_of(jobs_server) == before


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"content": b""}, "empty-body"),
        ({"files": [("file", ("a", b"x"))] * 5}, "bad-multipart"),
        ({"data": {"scale": "2"}, "files": [("other", ("a", b"x"))]}, "bad-multipart"),
        (
            {"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            "bad-multipart",
        ),
        ({"content": b"x", "headers": {"Content-Encoding": "gzip"}}, "encoded-body"),
        ({"content": b"x" * (65 << 20)}, "too-many-bytes"),
    ],
)
def test_bad_body_is_refused_and_leaves_nothing(api, jobs_server, request_, expected):
    before = pictures_of(jobs_server)
    assert label(api.post("/v1/jobs", **request_)) == expected
    assert pictures_of(jobs_server) == before


def pictures_of(server):
    """The blob files of the server, unfinished ones included."""
    folder = server.services.pictures.settings.jobs.folder / "pictures"
    return sorted(path for path in folder.glob("*") if path.name != ".clients-pictures")
