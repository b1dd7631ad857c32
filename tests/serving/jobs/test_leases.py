from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from bench.postgres import postgres, postgres_unavailable_reason
from serving.errors import (
    IdempotencyKeyReused,
    QuotaExceeded,
    UnknownUpload,
    UploadGone,
    UploadMismatch,
)
from serving.jobs.queries import MAX_QUEUE_POSITION
from serving.jobs.rows import JOBS, Input, Lease, NewJob, SteadyClock, Upload
from serving.jobs.table import JobTable

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def postgres_url():
    reason = postgres_unavailable_reason()
    if reason:
        pytest.skip(reason)
    with postgres() as url:
        yield url


class Clock:
    def __init__(self):
        self.now = 1_700_000_000_000

    def __call__(self):
        self.now += 1
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def table(request, tmp_path, clock):
    if request.param == "sqlite":
        job_table = JobTable(f"sqlite:///{tmp_path}/jobs.db", clock)
    else:
        job_table = JobTable(request.getfixturevalue("postgres_url"), clock)
    yield job_table
    clock.now += 1000 * HOUR_MS
    while job_table.expire(1000).job_ids:
        pass  # empty the database for the next test
    job_table.close()


def job(client="anna", key=None, priority=5, fingerprint="f", blobs=("in",), expires_ms=None):
    return NewJob(
        client=client,
        request={"options": {"scale": 2}},
        inputs=tuple(Input(blob=blob, name=f"{blob}.png") for blob in blobs),
        fingerprint=fingerprint,
        priority=priority,
        idempotency_key=key,
        expires_ms=expires_ms or 1_700_000_000_000 + HOUR_MS,
    )


def add(table, max_queued=10_000, **given):
    return table.add(job(**given), max_queued=max_queued)[0]


def test_job_from_queue_to_result(table):
    added = add(table, blobs=("a", "b"))
    assert (added.state, added.request) == ("queued", {"options": {"scale": 2}})
    lease = table.claim()
    assert lease.job_id == added.id
    assert table.claim() is None
    assert table.heartbeat(lease, 3, 8)
    assert table.get(added.id).tiles_done == 3
    assert table.heartbeat(lease, 4, 8, making="half")
    assert table.orphan_blobs(["half", "b", "other"]) == ["other"]
    assert table.finish_picture(lease, 0, blob="ra", size=5, headers={"Sharpline-Model": "m"})
    assert table.finish_picture(lease, 1, problem={"status": 415})
    assert table.finish(lease, "done", expires_ms=added.expires_ms)
    finished = table.get(added.id)
    assert (finished.state, finished.finished, finished.attempts) == ("done", True, 1)
    for pictures in (True, False):
        progress = table.progress(finished, pictures=pictures)
        assert (progress.finished, progress.total, progress.queue_position) == (2, 2, None)
        assert len(progress.pictures) == (2 if pictures else 0)
    first, second = table.pictures(added.id)
    assert (first.result_blob, first.result_bytes, first.input_blob) == ("ra", 5, None)
    assert first.headers == {"Sharpline-Model": "m"}
    assert second.problem == {"status": 415}
    assert first.finished
    assert table.picture(added.id, 1) == second
    assert table.picture(added.id, 2) is None


def test_queue_order_is_priority_then_round_robin_then_age(table):
    first = [add(table, client="busy").id for _ in range(3)]
    other = add(table, client="quiet").id
    urgent = add(table, client="busy", priority=9).id
    assert [
        table.progress(table.get(each)).queue_position for each in (urgent, first[0], other)
    ] == [1, 2, 3]
    order = [table.claim().job_id for _ in range(5)]
    assert order == [urgent, first[0], other, first[1], first[2]]


def test_queue_position_counts_from_one(table):
    assert MAX_QUEUE_POSITION == 1000
    ids = [add(table).id for _ in range(3)]
    assert [table.progress(table.get(each)).queue_position for each in ids] == [1, 2, 3]


def test_many_equal_requests_at_once_make_one_job(table):
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda _: table.add(job(key="k"), max_queued=10), range(50)))
    assert len({added.id for added, _ in results}) == 1
    assert sum(new for _, new in results) == 1


def test_idempotency_key_with_another_request_is_refused_per_client(table):
    add(table, key="k")
    with pytest.raises(IdempotencyKeyReused):
        add(table, key="k", fingerprint="g")
    assert add(table, key="k", client="bob", fingerprint="g").client == "bob"


def test_quota_of_queued_jobs_is_per_client(table):
    add(table, max_queued=1)
    with pytest.raises(QuotaExceeded):
        add(table, max_queued=1)
    add(table, max_queued=1, client="bob")


def test_concurrent_claims_never_get_the_same_job(table):
    ids = {add(table).id for _ in range(24)}
    with ThreadPoolExecutor(8) as threads:
        leases = list(threads.map(lambda _: table.claim(), range(24)))
    assert {lease.job_id for lease in leases if lease} <= ids
    rest = iter(table.claim, None)
    claimed = [lease.job_id for lease in leases if lease] + [lease.job_id for lease in rest]
    assert sorted(claimed) == sorted(ids)


def test_reclaimed_job_rejects_writes_of_its_former_holder(table):
    added = add(table)
    zombie = table.claim()
    [(lease, heartbeat)] = table.running()
    assert lease == zombie
    assert table.reclaim(lease, heartbeat)
    successor = table.claim()
    assert successor.job_id == added.id
    assert not table.heartbeat(zombie, 1, 1)
    assert not table.finish_picture(zombie, 0, blob="zombie")
    assert not table.finish(zombie, "done", expires_ms=0)
    assert not table.release(zombie)
    assert table.finish_picture(successor, 0, blob="successor")
    assert table.finish(successor, "done", expires_ms=added.expires_ms)
    assert table.pictures(added.id)[0].result_blob == "successor"
    assert not table.finish(successor, "done", expires_ms=0)  # at most once


def test_heartbeat_prevents_reclaiming(table):
    add(table)
    lease = table.claim()
    [(_, heartbeat)] = table.running()
    assert table.heartbeat(lease, 0, 1)
    assert not table.reclaim(lease, heartbeat)
    assert table.heartbeat(lease, 1, 1)


def test_released_job_is_next_and_its_attempt_is_not_counted(table):
    added = add(table)
    assert table.release(table.claim())
    assert table.get(added.id).attempts == 0
    assert table.claim().job_id == added.id


def erase(table, added):
    assert table.cancel(added.id, expires_ms=added.expires_ms - 5)
    blobs = table.blobs(added.id)
    table.erase(added.id, receipt={"blobs": len(blobs)})
    return blobs


def test_erased_job_keeps_only_its_state_and_receipt(table):
    added = add(table, blobs=("a", "b"), key="k")
    lease = table.claim()
    assert sorted(erase(table, added)) == ["a", "b"]
    left = table.get(added.id)
    assert (left.state, left.receipt, left.request) == ("cancelled", {"blobs": 2}, {})
    assert left.expires_ms == added.expires_ms - 5
    assert table.pictures(added.id) == []
    assert not table.heartbeat(lease, 1, 1)
    assert not table.cancel(added.id, expires_ms=0)
    finished = add(table)
    table.finish(table.claim(), "done", expires_ms=finished.expires_ms)
    erase(table, finished)
    assert table.get(finished.id).state == "deleted"


def test_interrupted_erasing_is_resumed_and_has_one_receipt(table):
    added = add(table, blobs=("a",))
    assert table.cancel(added.id, expires_ms=added.expires_ms)
    assert table.cancel(added.id, expires_ms=added.expires_ms)  # no receipt yet
    assert table.claim() is None
    assert table.blobs(added.id) == ["a"]
    table.erase(added.id, receipt={"blobs": 1})
    table.erase(added.id, receipt={"blobs": 0})
    assert table.get(added.id).receipt == {"blobs": 1}
    assert not table.cancel("0" * 32, expires_ms=0)


def test_expired_rows_are_removed_with_their_blobs(table, clock):
    added = add(table, blobs=("a",))
    later = add(table, expires_ms=clock.now + 5 * HOUR_MS)
    upload = Upload(
        id="u", client="anna", blob="ub", bytes=1, sha256=None, expires_ms=clock.now, stored=False
    )
    table.add_upload(upload)
    assert table.orphan_blobs(["a", "ub", "orphan"]) == ["orphan"]
    clock.now += 2 * HOUR_MS
    removed = table.expire(10)
    assert removed.job_ids == [added.id]
    assert sorted(removed.blobs) == ["a", "ub"]
    assert table.get(added.id) is None
    assert table.get(later.id) is not None
    assert table.upload("u") is None
    table.truncate_wal()


def test_stored_upload_is_used_by_one_job(table, clock):
    upload = Upload(
        id="u",
        client="anna",
        blob="ub",
        bytes=1,
        sha256="0" * 64,
        expires_ms=clock.now + HOUR_MS,
        stored=False,
    )
    table.add_upload(upload)
    named = replace(job(), inputs=(Input(upload="u"),))
    with pytest.raises(UploadMismatch, match="not arrived"):
        table.add(named, max_queued=10)
    assert table.mark_stored("u", "sent")
    assert not table.mark_stored("u", "sent again")
    assert (table.upload("u").stored, table.upload("u").blob) == (True, "sent")
    with pytest.raises(UnknownUpload):
        table.add(replace(named, client="bob"), max_queued=10)
    added, _ = table.add(named, max_queued=10)
    assert table.pictures(added.id)[0].input_blob == "sent"
    with pytest.raises(UnknownUpload):
        table.add(named, max_queued=10)
    table.add_upload(replace(upload, id="late", expires_ms=clock.now, stored=True))
    with pytest.raises(UploadGone):
        table.add(replace(named, inputs=(Input(upload="late"),)), max_queued=10)


def test_due_webhook_is_leased_once_at_a_time(table, clock):
    added = add(table)
    assert table.due_webhooks(60_000) == []
    table.finish(table.claim(), "done", expires_ms=added.expires_ms, webhook=True)
    [due] = table.due_webhooks(60_000)
    assert (due.id, due.webhook_attempts) == (added.id, 1)
    assert table.due_webhooks(60_000) == []
    table.webhook_settled(added.id, retry_at_ms=clock.now + 5)
    clock.now += 10
    [due] = table.due_webhooks(60_000)
    assert due.webhook_attempts == 2
    table.webhook_settled(added.id)
    clock.now += 100_000
    assert table.due_webhooks(60_000) == []


def test_queued_jobs_are_counted(table):
    add(table)
    add(table)
    table.claim()
    assert table.count_queued() == 1


def test_tables_of_one_sqlite_file_share_jobs(tmp_path):
    url = f"sqlite:///{tmp_path}/jobs.db"
    one, other = JobTable(url), JobTable(url)
    added = one.add(job(expires_ms=2**50), max_queued=9)[0]
    assert other.claim().job_id == added.id
    assert one.claim() is None
    one.close()
    other.close()


def test_setting_the_wall_clock_does_not_move_the_clock():
    calendar, monotonic = [1000.0], [5.0]
    clock = SteadyClock(lambda: calendar[0], lambda: monotonic[0])
    calendar[0] -= 86_400
    monotonic[0] += 2.0
    assert clock() == 1_002_000


def test_missing_columns_are_added_to_an_earlier_version(table):
    add(table)
    with table._writing() as connection:
        connection.exec_driver_sql("DROP INDEX jobs_making")
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN making")
    table._create()
    assert table.heartbeat(table.claim(), 0, 1, making="half")
    assert table.orphan_blobs(["half"]) == []


def test_columns_keep_the_names_of_earlier_versions():
    names = {column.name for column in JOBS.columns}
    assert {"beat", "hook_due_ms", "hook_attempts"} <= names
    assert {"heartbeat", "webhook_due_ms", "webhook_attempts"}.isdisjoint(names)


def test_lease_names_job_and_token():
    assert Lease("a", "b") != Lease("a", "c")
