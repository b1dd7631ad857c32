"""The runner and the reaper on shutdown, database failures and failing pictures."""

import asyncio
import contextlib
import sqlite3
import threading

import pytest
from sqlalchemy.exc import OperationalError

from serving.errors import ModelFailed, QueueFull, StorageFull
from serving.jobs import reaper as reaper_module
from serving.jobs import runner as runner_module
from serving.jobs.database import Database, DatabaseUnavailable, Notifier
from serving.jobs.reaper import Reaper
from serving.jobs.rows import Input, NewJob
from serving.jobs.runner import PictureResult, Runner, RunnerParts
from serving.jobs.store import FolderStore, new_blob, read_all
from serving.jobs.table import JobTable
from serving.jobs.webhooks import AddressGuard, GuardedNetwork, Webhooks
from serving.requests.signing import Signer
from serving.setting_groups import JobSettings

FAST_POLLING = {
    "workers": 1,
    "heartbeat_seconds": 0.02,
    "poll_seconds": 0.02,
    "sweep_seconds": 0.02,
    "lease_seconds": 60,  # longer than any delay on a busy machine
}
TIMEOUT_SECONDS = 60


class Services:
    """A table, a store, and a runner whose results are the inputs in upper case."""

    def __init__(self, folder, table_class=JobTable, **settings):
        self.settings = JobSettings(**{**FAST_POLLING, **settings})
        self.table = table_class(f"sqlite:///{folder}/jobs.db")
        self.store = FolderStore(folder / "pictures")
        self.job_changes = Notifier()
        self.started = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self.errors = []
        self.processed = []
        self.runner = self.new_runner()

    def new_runner(self):
        """A runner and a reaper as another process would have them."""
        database, new_jobs = Database(self.table), Notifier()
        common = {
            "new_jobs": new_jobs,
            "job_changes": self.job_changes,
            "settings": self.settings,
        }
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
        self.started.set()
        self.processed.append(data)
        await self.may_finish.wait()
        progress(1, 2)
        progress(2, 2)
        if self.errors:
            error = self.errors.pop(0)
            if error is not None:
                raise error

        async def chunks():
            yield data.upper()

        yield PictureResult(headers={"Sharpline-Model": "m"}, chunks=chunks())

    async def submit(self, *pictures, client="anna", priority=5, **request):
        inputs = []
        for data in pictures:
            blob = new_blob()
            await self.store.write(blob, single_chunk(data))
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
        return await read_all(self.store, self.table.picture(job_id, n).result_blob)

    async def wait_until(self, condition):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not condition():
                await asyncio.sleep(0.005)

    async def write_partial_result(self, job_id):
        """Leave a partial result of the job in the store, as a slow writer does."""
        await self.wait_until(
            lambda: self.table.orphan_blobs(list(self.runner._making.values())) == []
        )
        [blob] = self.runner._making.values()
        await self.store.write(blob, single_chunk(b"part"))
        return blob

    async def finished(self, job_id):
        await self.wait_until(lambda: self.table.get(job_id).finished)
        return self.table.get(job_id)


async def single_chunk(data):
    yield data


def run(scenario):
    async def with_timeout():
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await scenario()

    asyncio.run(with_timeout())


@contextlib.asynccontextmanager
async def running(services):
    services.runner.start()
    services.reaper.start()
    try:
        yield services
    finally:
        await services.runner.stop()
        await services.reaper.stop()
        services.table.close()


def test_job_of_a_stopped_runner_is_restarted_by_another(tmp_path):
    async def scenario():
        services = Services(tmp_path)
        services.may_finish.clear()
        job = await services.submit(b"a")
        services.runner.start()
        await services.started.wait()
        await services.runner.stop()
        left = services.table.get(job)
        assert (left.state, left.attempts) == ("queued", 0)
        services.may_finish.set()
        services.runner = services.new_runner()
        async with running(services):
            assert (await services.finished(job)).state == "done"
            assert await services.result(job) == b"A"

    run(scenario)


class HeldTable(JobTable):
    """A table whose commits of results block until they are resumed."""

    def __init__(self, url):
        super().__init__(url)
        self.committing, self.resume = threading.Event(), threading.Event()

    def hold(self):
        self.committing.set()
        assert self.resume.wait(TIMEOUT_SECONDS)


class SlowCommit(HeldTable):
    """Blocks after the commit."""

    def finish_picture(self, *arguments, **named):
        committed = super().finish_picture(*arguments, **named)
        self.hold()
        return committed


def test_result_committed_during_shutdown_is_kept(tmp_path):
    async def scenario():
        services = Services(tmp_path, SlowCommit)
        job = await services.submit(b"a", b"b")
        services.runner.start()
        await asyncio.to_thread(services.table.committing.wait, TIMEOUT_SECONDS)
        stopping = asyncio.create_task(services.runner.stop())
        await asyncio.sleep(0)
        services.table.resume.set()
        await stopping
        assert await services.result(job) == b"A"
        services.runner = services.new_runner()
        async with running(services):
            await services.finished(job)
            assert [await services.result(job, n) for n in (0, 1)] == [b"A", b"B"]

    run(scenario)


class LateCommit(HeldTable):
    """Blocks before the commit."""

    def finish_picture(self, *arguments, **named):
        self.hold()
        return super().finish_picture(*arguments, **named)


def test_result_of_a_job_cancelled_before_its_commit_is_deleted(tmp_path):
    async def scenario():
        services = Services(tmp_path, LateCommit)
        job = await services.submit(b"a")
        async with running(services):
            await asyncio.to_thread(services.table.committing.wait, TIMEOUT_SECONDS)
            assert services.table.cancel(job, expires_ms=services.table.now_ms() + 1000)
            abandoning = asyncio.create_task(services.runner.abandon(job))
            await asyncio.wait({abandoning}, timeout=0.01)
            assert not abandoning.done()  # it waits for the commit
            services.table.resume.set()
            await abandoning
            assert list(await services.store.change_markers()) == services.table.blobs(job)
        assert list(await services.store.change_markers()) == services.table.blobs(job)

    run(scenario)


def test_worker_with_a_reclaimed_lease_keeps_nothing(tmp_path):
    async def scenario():
        services = Services(tmp_path)
        services.may_finish.clear()
        job = await services.submit(b"a")
        async with running(services):
            await services.started.wait()
            services.started.clear()
            [(lease, heartbeat)] = services.table.running()
            while not services.table.reclaim(lease, heartbeat):
                [(lease, heartbeat)] = services.table.running()
            await services.started.wait()  # the same runner claims it again
            services.may_finish.set()
            assert (await services.finished(job)).attempts == 2
            assert await services.result(job) == b"A"
            assert len(await services.store.change_markers()) == 1

    run(scenario)


def test_worker_that_loses_its_lease_before_the_commit_keeps_nothing(tmp_path):
    async def scenario():
        services = Services(tmp_path, heartbeat_seconds=60)
        services.may_finish.clear()
        job = await services.submit(b"a")
        async with running(services):
            await services.started.wait()
            [(lease, heartbeat)] = services.table.running()
            assert services.table.reclaim(lease, heartbeat)
            services.may_finish.set()
            assert (await services.finished(job)).attempts == 2
            assert await services.result(job) == b"A"
            assert len(await services.store.change_markers()) == 1

    run(scenario)


def test_job_is_retried_later_when_the_server_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, "BACKOFF_SECONDS", 0.01)

    async def scenario():
        services = Services(tmp_path)
        services.errors = [QueueFull("full"), QueueFull("full")]
        job = await services.submit(b"a")
        async with running(services):
            assert (await services.finished(job)).state == "done"
            assert services.table.get(job).attempts == 1

    run(scenario)


def test_unexpected_error_fails_only_its_picture(tmp_path):
    async def scenario():
        services = Services(tmp_path)
        services.errors = [ZeroDivisionError("secret"), ModelFailed("the network failed"), None]
        job = await services.submit(b"a", b"b", b"c", webhook="http://127.0.0.1:9/")
        async with running(services):
            finished = await services.finished(job)
            assert finished.state == "done"
            first, second, third = services.table.pictures(job)
            assert (first.problem["type"], "secret" in str(first.problem)) == (
                "/problems/job-failed",
                False,
            )
            assert second.problem["type"] == "/problems/model-failed"
            assert await read_all(services.store, third.result_blob) == b"C"
            assert (finished.tiles_done, finished.tiles_total) == (2, 2)
            assert len(await services.store.change_markers()) == 1  # the inputs are deleted
            await services.wait_until(lambda: services.table.get(job).webhook_attempts == 1)

    run(scenario)


class FlakyTable(JobTable):
    """A table whose next heartbeat fails if `unavailable` is set."""

    unavailable = False

    def heartbeat(self, *arguments):
        if self.unavailable:
            self.unavailable = False
            raise OperationalError("heartbeat", {}, sqlite3.OperationalError("gone"))
        return super().heartbeat(*arguments)


def test_job_survives_a_short_database_outage(tmp_path):
    async def scenario():
        services = Services(tmp_path, FlakyTable, lease_seconds=0.4)
        services.may_finish.clear()
        job = await services.submit(b"a")
        async with running(services):
            await services.started.wait()
            services.started.clear()
            services.table.unavailable = True
            await services.started.wait()  # after its lease has expired
            services.may_finish.set()
            assert (await services.finished(job)).state == "done"
            assert await services.result(job) == b"A"

    run(scenario)


@pytest.mark.parametrize(("priority", "order"), [(5, b"axbyc"), (9, b"axybc"), (1, b"abcxy")])
def test_job_of_many_pictures_is_preempted_between_pictures(tmp_path, priority, order):
    async def scenario():
        services = Services(tmp_path)
        services.may_finish.clear()
        large = await services.submit(b"a", b"b", b"c")
        async with running(services):
            await services.started.wait()
            small = await services.submit(b"x", b"y", client="bob", priority=priority)
            services.may_finish.set()
            await services.finished(large)
            await services.finished(small)
        assert b"".join(services.processed) == order
        assert services.table.get(large).attempts == 1

    run(scenario)


def test_job_fails_after_too_many_attempts(tmp_path):
    async def scenario():
        services = Services(tmp_path)
        job = await services.submit(b"a")
        for _ in range(runner_module.MAX_ATTEMPTS):
            assert services.table.reclaim(services.table.claim(), 0)
        async with running(services):
            finished = await services.finished(job)
        assert (finished.state, finished.problem["type"]) == ("failed", "/problems/job-failed")

    run(scenario)


def test_orphaned_blob_is_swept_and_a_growing_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(reaper_module, "ORPHAN_SECONDS", 0.2)

    async def scenario():
        services = Services(tmp_path)
        job = await services.submit(b"named")
        stray, growing = new_blob(), new_blob()
        others = tmp_path / "pictures" / f"{new_blob()}.png"
        others.write_text("not ours")
        await services.store.write(stray, single_chunk(b"stray"))
        swept = asyncio.Event()

        async def slowly():
            while not swept.is_set():
                yield b"x"
                await asyncio.sleep(0.02)

        writing = asyncio.create_task(services.store.write(growing, slowly()))
        services.may_finish.clear()
        async with running(services):
            await services.started.wait()
            making = await services.write_partial_result(job)
            while stray in await services.store.change_markers():
                await asyncio.sleep(0.01)
            await asyncio.sleep(3 * reaper_module.ORPHAN_SECONDS)
            assert (
                making in await services.store.change_markers()
            )  # however long nothing is added to it
            swept.set()
            await writing
            services.may_finish.set()
            assert await services.finished(job)
            assert await services.result(job) == b"NAMED"
            assert others.exists()

    run(scenario)


def test_one_sweep_removes_all_expired_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(reaper_module, "MAX_EXPIRED", 2)

    async def scenario():
        services = Services(tmp_path, sweep_seconds=3600)
        services.may_finish.clear()
        jobs = [await services.submit(b"a") for _ in range(7)]
        now_ms = services.table.now_ms
        services.table.now_ms = lambda: now_ms() + 2_000_000
        async with running(services):
            await services.wait_until(lambda: not any(map(services.table.get, jobs)))
            while await services.store.change_markers():
                await asyncio.sleep(0.01)

    run(scenario)


def test_unavailable_and_full_databases_raise_their_own_errors(tmp_path):
    table = JobTable(f"sqlite:///{tmp_path}/jobs.db")
    database = Database(table)

    def unavailable():
        raise OperationalError("select", {}, sqlite3.OperationalError("gone"))

    def fill():
        with table._writing() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=1")
            connection.exec_driver_sql("CREATE TABLE more AS SELECT randomblob(100000)")

    with pytest.raises(DatabaseUnavailable):
        asyncio.run(database(unavailable))
    with pytest.raises(StorageFull):
        asyncio.run(database(fill))
    table.close()
