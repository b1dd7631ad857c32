"""What becomes of a job whose server leaves, whose database is away, whose picture fails."""

import asyncio
import contextlib
import sqlite3
import threading

import pytest
from sqlalchemy.exc import OperationalError

from serving.errors import ModelFailed, QueueFull, StorageFull
from serving.jobs import reaper as keepers
from serving.jobs import runner as runners
from serving.jobs.database import Changes, Database, DatabaseUnavailable
from serving.jobs.reaper import Reaper
from serving.jobs.rows import Input, NewJob
from serving.jobs.runner import PictureResult, Runner, RunnerParts
from serving.jobs.store import FolderStore, all_of, new_blob
from serving.jobs.table import JobTable
from serving.jobs.webhooks import AddressGuard, GuardedNetwork, Webhooks
from serving.requests.signing import Signer
from serving.setting_groups import JobSettings

QUICK = {
    "workers": 1,
    "heartbeat_seconds": 0.02,
    "poll_seconds": 0.02,
    "sweep_seconds": 0.02,
    "lease_seconds": 60,  # longer than any pause of a busy machine
}
TIMEOUT_SECONDS = 60


class Services:
    """A table, a store, and a runner over both whose work is `answer(picture) -> bytes`."""

    def __init__(self, folder, table_class=JobTable, **settings):
        self.settings = JobSettings(**{**QUICK, **settings})
        self.table = table_class(f"sqlite:///{folder}/jobs.db")
        self.store = FolderStore(folder / "pictures")
        self.changes = Changes()
        self.begun = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()
        self.faults = []
        self.worked = []
        self.runner = self.new_runner()

    def new_runner(self):
        """Another process, as it were: one that works and keeps."""
        database, arrivals = Database(self.table), Changes()
        common = {"arrivals": arrivals, "changes": self.changes, "settings": self.settings}
        self.reaper = Reaper(
            database,
            self.store,
            Signer(b"k" * 32),
            Webhooks(GuardedNetwork(AddressGuard(["127.0.0.0/8"])), 60),
            **common,
        )
        return Runner(
            RunnerParts(
                database=database,
                store=self.store,
                work=self.work,
                draining=lambda: False,
                **common,
            )
        )

    @contextlib.asynccontextmanager
    async def work(self, job, picture, data, progress):
        self.begun.set()
        self.worked.append(data)
        await self.hold.wait()
        progress(1, 2)
        progress(2, 2)
        if self.faults:
            fault = self.faults.pop(0)
            if fault is not None:
                raise fault

        async def chunks():
            yield data.upper()

        yield PictureResult(headers={"Sharpline-Model": "m"}, chunks=chunks())

    async def submit(self, *pictures, client="anna", priority=5, **request):
        inputs = []
        for data in pictures:
            blob = new_blob()
            await self.store.write(blob, one(data))
            inputs.append(Input(blob=blob))
        new = NewJob(
            client=client,
            priority=priority,
            request=request,
            inputs=tuple(inputs),
            fingerprint="f",
            expires_ms=self.table.now_ms() + 1_000_000,
        )
        return self.table.add(new, max_queued=10)[0].id

    async def result(self, job_id, n=0):
        return await all_of(self.store, self.table.picture(job_id, n).result_blob)

    async def until(self, condition):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not condition():
                await asyncio.sleep(0.005)

    async def being_made(self, job_id):
        """Leave part of the job's result in the store, as a writer who is slow does."""
        await self.until(lambda: self.table.unknown_blobs(list(self.runner._making.values())) == [])
        [blob] = self.runner._making.values()
        await self.store.write(blob, one(b"part"))
        return blob

    async def finished(self, job_id):
        await self.until(lambda: self.table.get(job_id).finished)
        return self.table.get(job_id)


async def one(data):
    yield data


def run(story):
    async def told():
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await story()

    asyncio.run(told())


@contextlib.asynccontextmanager
async def at_work(services):
    services.runner.start()
    services.reaper.start()
    try:
        yield services
    finally:
        await services.runner.stop()
        await services.reaper.stop()
        services.table.close()


def test_job_of_a_server_that_leaves_is_begun_anew_by_another(tmp_path):
    async def story():
        services = Services(tmp_path)
        services.hold.clear()
        job = await services.submit(b"a")
        services.runner.start()
        await services.begun.wait()
        await services.runner.stop()
        left = services.table.get(job)
        assert (left.state, left.attempts) == ("queued", 0)
        services.hold.set()
        services.runner = services.new_runner()
        async with at_work(services):
            assert (await services.finished(job)).state == "done"
            assert await services.result(job) == b"A"

    run(story)


class SlowCommit(JobTable):
    """A table that takes its time to commit a result, and says when it is at it."""

    def __init__(self, url):
        super().__init__(url)
        self.at_it, self.go_on = threading.Event(), threading.Event()

    def finish_picture(self, *arguments, **named):
        kept = super().finish_picture(*arguments, **named)
        self.at_it.set()
        assert self.go_on.wait(TIMEOUT_SECONDS)
        return kept


def test_result_that_was_being_committed_when_the_server_left_is_kept(tmp_path):
    async def story():
        services = Services(tmp_path, SlowCommit)
        job = await services.submit(b"a", b"b")
        services.runner.start()
        await asyncio.to_thread(services.table.at_it.wait, TIMEOUT_SECONDS)
        stopping = asyncio.create_task(services.runner.stop())
        await asyncio.sleep(0)
        services.table.go_on.set()
        await stopping
        assert await services.result(job) == b"A"
        services.runner = services.new_runner()
        async with at_work(services):
            await services.finished(job)
            assert [await services.result(job, n) for n in (0, 1)] == [b"A", b"B"]

    run(story)


class LateCommit(JobTable):
    """A table that comes to commit a result too late, and says when it is about to."""

    def __init__(self, url):
        super().__init__(url)
        self.at_it, self.go_on = threading.Event(), threading.Event()

    def finish_picture(self, *arguments, **named):
        self.at_it.set()
        assert self.go_on.wait(TIMEOUT_SECONDS)
        return super().finish_picture(*arguments, **named)


def test_result_that_was_to_be_committed_when_its_job_was_cancelled_is_gone(tmp_path):
    async def story():
        services = Services(tmp_path, LateCommit)
        job = await services.submit(b"a")
        async with at_work(services):
            await asyncio.to_thread(services.table.at_it.wait, TIMEOUT_SECONDS)
            assert services.table.cancel(job, expires_ms=services.table.now_ms() + 1000)
            abandoning = asyncio.create_task(services.runner.abandon(job))
            await asyncio.wait({abandoning}, timeout=0.01)
            assert not abandoning.done()  # the commit is under way, and nobody may pass it
            services.table.go_on.set()
            await abandoning
            assert list(await services.store.modified_times()) == services.table.blobs(job)
        assert list(await services.store.modified_times()) == services.table.blobs(job)

    run(story)


def test_worker_whose_lease_was_taken_keeps_nothing(tmp_path):
    async def story():
        services = Services(tmp_path)
        services.hold.clear()
        job = await services.submit(b"a")
        async with at_work(services):
            await services.begun.wait()
            services.begun.clear()
            [(lease, heartbeat)] = services.table.running()
            while not services.table.reclaim(lease, heartbeat):
                [(lease, heartbeat)] = services.table.running()
            await services.begun.wait()  # by the same runner, which is the next to claim it
            services.hold.set()
            assert (await services.finished(job)).attempts == 2
            assert await services.result(job) == b"A"
            assert len(await services.store.modified_times()) == 1

    run(story)


def test_worker_that_learns_of_its_loss_when_it_commits_keeps_nothing(tmp_path):
    async def story():
        services = Services(tmp_path, heartbeat_seconds=60)
        services.hold.clear()
        job = await services.submit(b"a")
        async with at_work(services):
            await services.begun.wait()
            [(lease, heartbeat)] = services.table.running()
            assert services.table.reclaim(lease, heartbeat)
            services.hold.set()
            assert (await services.finished(job)).attempts == 2
            assert await services.result(job) == b"A"
            assert len(await services.store.modified_times()) == 1

    run(story)


def test_job_that_finds_the_server_full_has_its_turn_later(tmp_path, monkeypatch):
    monkeypatch.setattr(runners, "POSTPONED_SECONDS", 0.01)

    async def story():
        services = Services(tmp_path)
        services.faults = [QueueFull("full"), QueueFull("full")]
        job = await services.submit(b"a")
        async with at_work(services):
            assert (await services.finished(job)).state == "done"
            assert services.table.get(job).attempts == 1

    run(story)


def test_what_nobody_foresaw_is_one_pictures_fault_alone(tmp_path):
    async def story():
        services = Services(tmp_path)
        services.faults = [ZeroDivisionError("secret"), ModelFailed("the network failed"), None]
        job = await services.submit(b"a", b"b", b"c", webhook="http://127.0.0.1:9/")
        async with at_work(services):
            finished = await services.finished(job)
            assert finished.state == "done"
            first, second, third = services.table.pictures(job)
            assert (first.problem["type"], "secret" in str(first.problem)) == (
                "/problems/job-failed",
                False,
            )
            assert second.problem["type"] == "/problems/model-failed"
            assert await all_of(services.store, third.result_blob) == b"C"
            assert (finished.tiles_done, finished.tiles_total) == (2, 2)
            assert len(await services.store.modified_times()) == 1  # the inputs are gone
            await services.until(lambda: services.table.get(job).webhook_attempts == 1)

    run(story)


class AwayAtTimes(JobTable):
    """A table that cannot be reached while `away`."""

    away = False

    def heartbeat(self, *arguments):
        if self.away:
            self.away = False
            raise OperationalError("heartbeat", {}, sqlite3.OperationalError("gone"))
        return super().heartbeat(*arguments)


def test_job_outlives_a_database_that_was_away_for_a_moment(tmp_path):
    async def story():
        services = Services(tmp_path, AwayAtTimes, lease_seconds=0.4)
        services.hold.clear()
        job = await services.submit(b"a")
        async with at_work(services):
            await services.begun.wait()
            services.begun.clear()
            services.table.away = True
            await services.begun.wait()  # once its lease was silent for long enough
            services.hold.set()
            assert (await services.finished(job)).state == "done"
            assert await services.result(job) == b"A"

    run(story)


@pytest.mark.parametrize(("priority", "order"), [(5, b"axbyc"), (9, b"axybc"), (1, b"abcxy")])
def test_job_of_many_pictures_lets_others_have_their_turns(tmp_path, priority, order):
    async def story():
        services = Services(tmp_path)
        services.hold.clear()
        large = await services.submit(b"a", b"b", b"c")
        async with at_work(services):
            await services.begun.wait()
            small = await services.submit(b"x", b"y", client="bob", priority=priority)
            services.hold.set()
            await services.finished(large)
            await services.finished(small)
        assert b"".join(services.worked) == order
        assert services.table.get(large).attempts == 1

    run(story)


def test_job_that_was_begun_too_often_counts_as_what_kills_the_process(tmp_path):
    async def story():
        services = Services(tmp_path)
        job = await services.submit(b"a")
        for _ in range(runners.MAX_ATTEMPTS):
            assert services.table.reclaim(services.table.claim(), 0)
        async with at_work(services):
            finished = await services.finished(job)
        assert (finished.state, finished.problem["type"]) == ("failed", "/problems/job-failed")

    run(story)


def test_blob_that_nobody_names_is_swept_and_one_that_grows_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(keepers, "UNKNOWN_SECONDS", 0.2)

    async def story():
        services = Services(tmp_path)
        job = await services.submit(b"named")
        stray, growing = new_blob(), new_blob()
        others = tmp_path / "pictures" / f"{new_blob()}.png"
        others.write_text("not ours")
        await services.store.write(stray, one(b"stray"))
        swept = asyncio.Event()

        async def slowly():
            while not swept.is_set():
                yield b"x"
                await asyncio.sleep(0.02)

        writing = asyncio.create_task(services.store.write(growing, slowly()))
        services.hold.clear()
        async with at_work(services):
            await services.begun.wait()
            making = await services.being_made(job)
            while stray in await services.store.modified_times():
                await asyncio.sleep(0.01)
            await asyncio.sleep(3 * keepers.UNKNOWN_SECONDS)
            assert (
                making in await services.store.modified_times()
            )  # however long nothing is added to it
            swept.set()
            await writing
            services.hold.set()
            assert await services.finished(job)
            assert await services.result(job) == b"NAMED"
            assert others.exists()

    run(story)


def test_all_that_has_expired_goes_at_once_however_much_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(keepers, "MAX_EXPIRED", 2)

    async def story():
        services = Services(tmp_path, sweep_seconds=3600)
        services.hold.clear()
        jobs = [await services.submit(b"a") for _ in range(7)]
        now_ms = services.table.now_ms
        services.table.now_ms = lambda: now_ms() + 2_000_000
        async with at_work(services):
            await services.until(lambda: not any(map(services.table.get, jobs)))
            while await services.store.modified_times():
                await asyncio.sleep(0.01)

    run(story)


def test_calls_of_a_table_that_is_away_or_full_say_so(tmp_path):
    table = JobTable(f"sqlite:///{tmp_path}/jobs.db")
    database = Database(table)

    def away():
        raise OperationalError("select", {}, sqlite3.OperationalError("gone"))

    def fill():
        with table._writing() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=1")
            connection.exec_driver_sql("CREATE TABLE more AS SELECT randomblob(100000)")

    with pytest.raises(DatabaseUnavailable):
        asyncio.run(database(away))
    with pytest.raises(StorageFull):
        asyncio.run(database(fill))
    table.close()
