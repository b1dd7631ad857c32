"""Runs queued jobs inside the server: a few at a time, with lower priority than requests.

Every job runs under a lease that is renewed by heartbeats. A clean shutdown releases the leases, so
another replica continues at once; after a kill the heartbeats stop and another replica reclaims
them.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from serving.background import BackgroundTasks
from serving.errors import JobFailed, RetryLater, ServingError
from serving.jobs.database import Database, DatabaseUnavailable, Notifier
from serving.jobs.rows import Job, JobPicture, Lease
from serving.jobs.store import Store, WrittenBlob, new_blob, read_all
from serving.problems import problem_of
from serving.setting_groups import JobSettings
from superres.image.codecs import PictureError

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # of one job; after that it is assumed to crash the process
BACKOFF_SECONDS = 0.5  # after a job was refused because the server is full
PROGRESS_SECONDS = 0.1  # between two progress notifications


class LeaseLost(Exception):
    """Another replica has leased the job, or its client has deleted it."""


class ShuttingDown(Exception):
    """The server shuts down; the job is put back into the queue."""


class Preempted(Exception):
    """Another job's picture comes before this job's next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureResult:
    """A result to be stored, with the headers of a synchronous response."""

    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class PictureWork(Protocol):
    """Enhances one picture; `progress` is called with the finished tiles and all tiles."""

    def __call__(
        self, job: Job, picture: JobPicture, data: bytes, progress: Callable[[int, int], None]
    ) -> AbstractAsyncContextManager[PictureResult]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerParts:
    """A runner's dependencies; `draining` returns True once the server shuts down."""

    database: Database
    store: Store
    work: PictureWork
    new_jobs: Notifier  # notified when this process queues a job
    job_changes: Notifier  # notified when a job changes here, by its id
    settings: JobSettings
    draining: Callable[[], bool]


class Runner:
    """Claims jobs and enhances their pictures."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._db = parts.database
        self._table = parts.database.table
        self._settings = parts.settings
        self._background = BackgroundTasks(parts.settings.poll_seconds)
        self._making: dict[Lease, str] = {}  # result blobs that are being written
        self._tasks: dict[Lease, asyncio.Task[None]] = {}
        self.progress: dict[str, tuple[int, int]] = {}  # tiles of the jobs that run here

    def start(self) -> None:
        """Start the workers; called on the event loop."""
        self._background.start(*[self._claim_jobs] * self._settings.workers)

    async def stop(self) -> None:
        """Release every lease and stop."""
        self._background.stopping.set()
        self._parts.new_jobs.notify()
        await self._background.stop()

    async def _claim_jobs(self) -> None:
        if self._parts.draining():
            await self._background.pause(self._settings.poll_seconds)
            return
        with self._parts.new_jobs.subscribe() as new_job:
            lease = await self._db(self._table.claim)
            if lease is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(new_job.wait(), self._settings.poll_seconds)
                return
        await self._run_lease(lease)

    async def _run_lease(self, lease: Lease) -> None:
        """Process a job and renew its lease meanwhile."""
        self._parts.job_changes.notify(lease.job_id)
        task = self._tasks[lease] = asyncio.create_task(self._process_job(lease))
        stopping = asyncio.create_task(self._background.stopping.wait())
        try:
            while not task.done():
                await asyncio.wait(
                    {task, stopping},
                    timeout=self._settings.heartbeat_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not task.done():
                    await self._renew(lease)
            if task.cancelled():
                raise LeaseLost
            await task
        except ShuttingDown:
            await _cancel(task)
            await self._db(self._table.release, lease)
        except LeaseLost:
            log.info("job %s was deleted, or reclaimed by another replica", lease.job_id)
            await self._cancel_work(lease)
        except DatabaseUnavailable:  # the heartbeats stop, and some replica reclaims the job
            log.warning("job %s is interrupted: the database is unavailable", lease.job_id)
        except Preempted:
            await self._db(self._table.release, lease, turns=1)
        except RetryLater:
            await self._db(self._table.release, lease, turns=1)
            await self._background.pause(BACKOFF_SECONDS)
        finally:
            await _cancel(task)
            await _cancel(stopping)
            del self._tasks[lease]
            self._making.pop(lease, None)
            self.progress.pop(lease.job_id, None)
            self._parts.job_changes.notify(lease.job_id)

    async def _renew(self, lease: Lease) -> None:
        if self._background.stopping.is_set() or self._parts.draining():
            raise ShuttingDown
        done, total = self.progress.get(lease.job_id, (0, 0))
        making = self._making.get(lease)
        if not await self._db(self._table.heartbeat, lease, done, total, making):
            raise LeaseLost

    async def _process_job(self, lease: Lease) -> None:
        job = await self._db(self._table.get, lease.job_id)
        if job is None:
            raise LeaseLost
        pictures = await self._db(self._table.pictures, job.id)
        problems = [each.problem for each in pictures if each.finished]
        started = False
        for picture in pictures:
            if picture.finished:
                continue
            if started and await self._db(self._table.should_preempt, job):
                raise Preempted
            started = True
            if job.attempts > MAX_ATTEMPTS:
                problem = problem_of(JobFailed(f"gave up after {MAX_ATTEMPTS} attempts"))
                await self._commit(lease, picture, problem=problem)
            else:
                problem = await self._process_picture(lease, job, picture)
            problems.append(problem)
        await self._finish(lease, problems, webhook="webhook" in job.request)

    async def _process_picture(
        self, lease: Lease, job: Job, picture: JobPicture
    ) -> dict[str, Any] | None:
        """Enhance one picture and commit its result or its problem; returns the problem."""
        blob = self._making[lease] = new_blob()
        try:
            headers, written = await self._write_result(job, picture, blob)
        except RetryLater:
            raise
        except Exception as error:
            problem = _problem_of_picture(error, job, picture)
            await self._commit(lease, picture, problem=problem)
            return problem
        try:
            await self._commit(lease, picture, blob=blob, size=written.bytes, headers=dict(headers))
        except LeaseLost:
            # After any other error the row may name the blob; if not, a sweep deletes it.
            await self._parts.store.delete([blob])
            raise
        return None

    async def _write_result(
        self, job: Job, picture: JobPicture, blob: str
    ) -> tuple[Mapping[str, str], WrittenBlob]:
        assert picture.input_blob is not None
        self.progress.pop(job.id, None)  # of the previous picture
        data = await read_all(self._parts.store, picture.input_blob)
        notified_seconds = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal notified_seconds
            self.progress[job.id] = (done, total)
            now_seconds = time.monotonic()
            if now_seconds - notified_seconds >= PROGRESS_SECONDS:
                notified_seconds = now_seconds
                self._parts.job_changes.notify(job.id)

        async with self._parts.work(job, picture, data, progress) as result:
            return result.headers, await self._parts.store.write(blob, result.chunks)

    async def _commit(self, lease: Lease, picture: JobPicture, **outcome: Any) -> None:
        tiles = self.progress.get(lease.job_id, (0, 0))
        committed = await self._db(
            self._table.finish_picture, lease, picture.n, tiles=tiles, **outcome
        )
        if not committed:
            raise LeaseLost
        if picture.input_blob is not None:
            await self._parts.store.delete([picture.input_blob])
        self._parts.job_changes.notify(lease.job_id)

    async def _finish(
        self, lease: Lease, problems: list[dict[str, Any] | None], webhook: bool = False
    ) -> None:
        """A job is done if at least one picture is, and failed if none is."""
        failed = all(problem is not None for problem in problems)
        await self._db(
            self._table.finish,
            lease,
            "failed" if failed else "done",
            expires_ms=self._table.now_ms() + int(self._settings.result_seconds * 1000),
            problem=problems[0] if failed else None,
            webhook=webhook,
        )

    async def abandon(self, job_id: str) -> None:
        """Stop processing a cancelled job here and delete its unfinished result."""
        for lease in [lease for lease in self._tasks if lease.job_id == job_id]:
            await self._cancel_work(lease)

    async def _cancel_work(self, lease: Lease) -> None:
        """Cancel the task of a lease that has ended, and delete the result it was writing."""
        making, task = self._making.get(lease), self._tasks.get(lease)
        if task is not None:
            await _cancel(task)
        # The result may have been committed just before the lease was lost.
        if making is not None and await self._db(self._table.orphan_blobs, [making]):
            await self._parts.store.delete([making])


def _problem_of_picture(error: Exception, job: Job, picture: JobPicture) -> dict[str, Any]:
    """The problem to show to the client; an unexpected error fails only this picture."""
    if isinstance(error, ServingError | PictureError):
        return problem_of(error)
    log.error("picture %d of job %s failed", picture.n, job.id, exc_info=error)
    return problem_of(JobFailed(f"the picture failed ({type(error).__name__})"))


async def _cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
