from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from bench.postgres import postgres, why_not_postgres
from serving.errors import (
    IdempotencyKeyReused,
    QuotaExceeded,
    UnknownUpload,
    UploadGone,
    UploadMismatch,
)
from serving.jobs.queries import MAX_QUEUE_POSITION
from serving.jobs.rows import Input, Lease, NewJob, SteadyClock, Upload
from serving.jobs.table import JobTable

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def postgres_url():
    reason = why_not_postgres()
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
        made = JobTable(f"sqlite:///{tmp_path}/jobs.db", clock)
    else:
        made = JobTable(request.getfixturevalue("postgres_url"), clock)
    yield made
    clock.now += 1000 * HOUR_MS
    while made.expire(1000).job_ids:
        pass  # the next test finds the database empty
    made.close()


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


def test_jobs_way_from_queue_to_result(table):
    entered = add(table, blobs=("a", "b"))
    assert (entered.state, entered.request) == ("queued", {"options": {"scale": 2}})
    lease = table.claim()
    assert lease.job_id == entered.id
    assert table.claim() is None
    assert table.heartbeat(lease, 3, 8)
    assert table.get(entered.id).tiles_done == 3
    assert table.heartbeat(lease, 4, 8, making="half")
    assert table.unknown_blobs(["half", "b", "other"]) == ["other"]
    assert table.finish_picture(lease, 0, blob="ra", size=5, headers={"Sharpline-Model": "m"})
    assert table.finish_picture(lease, 1, problem={"status": 415})
    assert table.finish(lease, "done", expires_ms=entered.expires_ms)
    finished = table.get(entered.id)
    assert (finished.state, finished.finished, finished.attempts) == ("done", True, 1)
    for pictures in (True, False):
        progress = table.progress(finished, pictures=pictures)
        assert (progress.finished, progress.total, progress.queue_position) == (2, 2, None)
        assert len(progress.pictures) == (2 if pictures else 0)
    first, second = table.pictures(entered.id)
    assert (first.result_blob, first.result_bytes, first.input_blob) == ("ra", 5, None)
    assert first.headers == {"Sharpline-Model": "m"}
    assert second.problem == {"status": 415}
    assert first.finished
    assert table.picture(entered.id, 1) == second
    assert table.picture(entered.id, 2) is None


def test_priority_goes_first_then_clients_take_turns_then_age(table):
    first = [add(table, client="busy").id for _ in range(3)]
    other = add(table, client="quiet").id
    urgent = add(table, client="busy", priority=9).id
    assert [
        table.progress(table.get(each)).queue_position for each in (urgent, first[0], other)
    ] == [1, 2, 3]
    order = [table.claim().job_id for _ in range(5)]
    assert order == [urgent, first[0], other, first[1], first[2]]


def test_place_counts_no_further_than_it_must(table):
    assert MAX_QUEUE_POSITION == 1000
    ids = [add(table).id for _ in range(3)]
    assert [table.progress(table.get(each)).queue_position for each in ids] == [1, 2, 3]


def test_many_equal_requests_at_once_make_one_job(table):
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda _: table.add(job(key="k"), max_queued=10), range(50)))
    assert len({entered.id for entered, _ in made}) == 1
    assert sum(new for _, new in made) == 1


def test_key_with_another_request_is_refused_and_another_clients_key_is_not(table):
    add(table, key="k")
    with pytest.raises(IdempotencyKeyReused):
        add(table, key="k", fingerprint="g")
    assert add(table, key="k", client="bob", fingerprint="g").client == "bob"


def test_quota_of_waiting_jobs_is_each_clients_own(table):
    add(table, max_queued=1)
    with pytest.raises(QuotaExceeded):
        add(table, max_queued=1)
    add(table, max_queued=1, client="bob")


def test_two_claimers_never_get_the_same_job(table):
    ids = {add(table).id for _ in range(24)}
    with ThreadPoolExecutor(8) as threads:
        leases = list(threads.map(lambda _: table.claim(), range(24)))
    assert {lease.job_id for lease in leases if lease} <= ids
    rest = iter(table.claim, None)
    claimed = [lease.job_id for lease in leases if lease] + [lease.job_id for lease in rest]
    assert sorted(claimed) == sorted(ids)


def test_silent_holder_loses_its_job_and_nothing_of_its_work_is_kept(table):
    entered = add(table)
    zombie = table.claim()
    [(held, heartbeat)] = table.running()
    assert held == zombie
    assert table.reclaim(held, heartbeat)
    heir = table.claim()
    assert heir.job_id == entered.id
    assert not table.heartbeat(zombie, 1, 1)
    assert not table.finish_picture(zombie, 0, blob="zombie")
    assert not table.finish(zombie, "done", expires_ms=0)
    assert not table.release(zombie)
    assert table.finish_picture(heir, 0, blob="heir")
    assert table.finish(heir, "done", expires_ms=entered.expires_ms)
    assert table.pictures(entered.id)[0].result_blob == "heir"
    assert not table.finish(heir, "done", expires_ms=0)  # once is enough


def test_holder_that_beat_meanwhile_keeps_its_job(table):
    add(table)
    lease = table.claim()
    [(_, heartbeat)] = table.running()
    assert table.heartbeat(lease, 0, 1)
    assert not table.reclaim(lease, heartbeat)
    assert table.heartbeat(lease, 1, 1)


def test_released_job_is_next_again_and_the_attempt_does_not_count(table):
    entered = add(table)
    assert table.release(table.claim())
    assert table.get(entered.id).attempts == 0
    assert table.claim().job_id == entered.id


def erase(table, entered):
    assert table.cancel(entered.id, expires_ms=entered.expires_ms - 5)
    blobs = table.blobs(entered.id)
    table.erase(entered.id, receipt={"blobs": len(blobs)})
    return blobs


def test_erasing_leaves_the_jobs_end_and_a_receipt_alone(table):
    entered = add(table, blobs=("a", "b"), key="k")
    lease = table.claim()
    assert sorted(erase(table, entered)) == ["a", "b"]
    left = table.get(entered.id)
    assert (left.state, left.receipt, left.request) == ("cancelled", {"blobs": 2}, {})
    assert left.expires_ms == entered.expires_ms - 5
    assert table.pictures(entered.id) == []
    assert not table.heartbeat(lease, 1, 1)
    assert not table.cancel(entered.id, expires_ms=0)
    finished = add(table)
    table.finish(table.claim(), "done", expires_ms=finished.expires_ms)
    erase(table, finished)
    assert table.get(finished.id).state == "deleted"


def test_erasing_that_was_broken_off_is_gone_on_with_and_has_one_receipt(table):
    entered = add(table, blobs=("a",))
    assert table.cancel(entered.id, expires_ms=entered.expires_ms)
    assert table.cancel(entered.id, expires_ms=entered.expires_ms)  # no receipt yet
    assert table.claim() is None
    assert table.blobs(entered.id) == ["a"]
    table.erase(entered.id, receipt={"blobs": 1})
    table.erase(entered.id, receipt={"blobs": 0})
    assert table.get(entered.id).receipt == {"blobs": 1}
    assert not table.cancel("0" * 32, expires_ms=0)


def test_what_has_expired_goes_with_its_blobs(table, clock):
    entered = add(table, blobs=("a",))
    later = add(table, expires_ms=clock.now + 5 * HOUR_MS)
    upload = Upload(
        id="u", client="anna", blob="ub", bytes=1, sha256=None, expires_ms=clock.now, stored=False
    )
    table.add_upload(upload)
    assert table.unknown_blobs(["a", "ub", "nobodys"]) == ["nobodys"]
    clock.now += 2 * HOUR_MS
    removed = table.expire(10)
    assert removed.job_ids == [entered.id]
    assert sorted(removed.blobs) == ["a", "ub"]
    assert table.get(entered.id) is None
    assert table.get(later.id) is not None
    assert table.upload("u") is None
    table.forget()


def test_upload_serves_one_job_once_it_is_there(table, clock):
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
    assert table.upload_stored("u", "sent")
    assert not table.upload_stored("u", "sent again")
    assert (table.upload("u").stored, table.upload("u").blob) == (True, "sent")
    with pytest.raises(UnknownUpload):
        table.add(replace(named, client="bob"), max_queued=10)
    entered, _ = table.add(named, max_queued=10)
    assert table.pictures(entered.id)[0].input_blob == "sent"
    with pytest.raises(UnknownUpload):
        table.add(named, max_queued=10)
    table.add_upload(replace(upload, id="late", expires_ms=clock.now, stored=True))
    with pytest.raises(UploadGone):
        table.add(replace(named, inputs=(Input(upload="late"),)), max_queued=10)


def test_webhook_is_due_once_at_a_time(table, clock):
    entered = add(table)
    assert table.due_webhooks(60_000) == []
    table.finish(table.claim(), "done", expires_ms=entered.expires_ms, hook=True)
    [due] = table.due_webhooks(60_000)
    assert (due.id, due.webhook_attempts) == (entered.id, 1)
    assert table.due_webhooks(60_000) == []
    table.webhook_settled(entered.id, again_ms=clock.now + 5)
    clock.now += 10
    [due] = table.due_webhooks(60_000)
    assert due.webhook_attempts == 2
    table.webhook_settled(entered.id)
    clock.now += 100_000
    assert table.due_webhooks(60_000) == []


def test_what_waits_is_counted(table):
    add(table)
    add(table)
    table.claim()
    assert table.waiting() == 1


def test_two_processes_of_one_sqlite_file_see_each_other(tmp_path):
    url = f"sqlite:///{tmp_path}/jobs.db"
    one, other = JobTable(url), JobTable(url)
    entered = one.add(job(expires_ms=2**50), max_queued=9)[0]
    assert other.claim().job_id == entered.id
    assert one.claim() is None
    one.close()
    other.close()


def test_calendar_that_is_set_anew_does_not_move_the_clock():
    calendar, monotonic = [1000.0], [5.0]
    clock = SteadyClock(lambda: calendar[0], lambda: monotonic[0])
    calendar[0] -= 86_400
    monotonic[0] += 2.0
    assert clock() == 1_002_000


def test_table_of_an_earlier_version_gets_the_columns_it_lacks(table):
    add(table)
    with table._writing() as connection:
        connection.exec_driver_sql("DROP INDEX jobs_making")
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN making")
    table._create()
    assert table.heartbeat(table.claim(), 0, 1, making="half")
    assert table.unknown_blobs(["half"]) == []


def test_lease_names_job_and_token():
    assert Lease("a", "b") != Lease("a", "c")
