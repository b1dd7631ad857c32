"""Works off the queue of jobs inside the server: a few at a time, beneath what clients wait for.

Every job runs under a lease that is kept alive from here. Leaving gives the leases back, so that
another replica goes on at once; being killed leaves them silent, and another takes them back.
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
from serving.jobs.database import Changes, Database, DatabaseUnavailable
from serving.jobs.rows import Job, JobPicture, Lease
from serving.jobs.store import Store, WrittenBlob, all_of, new_blob
from serving.problems import problem_of
from serving.setting_groups import JobSettings
from superres.image.codecs import PictureError

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # of one job, before it counts as what kills the process
POSTPONED_SECONDS = 0.5  # until a job that found the server full is tried again
TELL_SECONDS = 0.1  # between two tellings of how far a picture is


class LeaseLost(Exception):
    """Another replica has the job now, or its client has deleted it."""


class ShuttingDown(Exception):
    """The server is to stop; the job goes back."""


class Preempted(Exception):
    """Somebody else's picture has its turn before this job's next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureResult:
    """An answer on its way into the store, with what the synchronous answer has as headers."""

    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class PictureWork(Protocol):
    """Answers one picture; `progress` hears tiles done and tiles of the picture."""

    def __call__(
        self, job: Job, picture: JobPicture, data: bytes, progress: Callable[[int, int], None]
    ) -> AbstractAsyncContextManager[PictureResult]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerParts:
    """What a runner is made of; `draining` says that the server is about to leave."""

    database: Database
    store: Store
    work: PictureWork
    arrivals: Changes  # jobs that came in here
    changes: Changes  # what becomes of jobs here, by their id
    settings: JobSettings
    draining: Callable[[], bool]


class Runner:
    """Claims jobs and answers their pictures."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._db = parts.database
        self._table = parts.database.table
        self._settings = parts.settings
        self._background = BackgroundTasks(parts.settings.poll_seconds)
        self._making: dict[Lease, str] = {}  # blobs that are being written
        self._working: dict[Lease, asyncio.Task[None]] = {}
        self.progress: dict[str, tuple[int, int]] = {}  # of the jobs that run here

    def start(self) -> None:
        """Begin to work; on the event loop."""
        self._background.start(*[self._claim_jobs] * self._settings.workers)

    async def stop(self) -> None:
        """Give every lease back and end."""
        self._background.leaving.set()
        self._parts.arrivals.tell()
        await self._background.stop()

    async def _claim_jobs(self) -> None:
        if self._parts.draining():
            await self._background.pause(self._settings.poll_seconds)
            return
        with self._parts.arrivals.listen() as arrived:
            lease = await self._db(self._table.claim)
            if lease is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(arrived.wait(), self._settings.poll_seconds)
                return
        await self._hold(lease)

    async def _hold(self, lease: Lease) -> None:
        """Work on a job and keep its lease alive meanwhile."""
        self._parts.changes.tell(lease.job_id)
        working = self._working[lease] = asyncio.create_task(self._work(lease))
        leaving = asyncio.create_task(self._background.leaving.wait())
        try:
            while not working.done():
                await asyncio.wait(
                    {working, leaving},
                    timeout=self._settings.heartbeat_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not working.done():
                    await self._keep(lease)
            if working.cancelled():
                raise LeaseLost
            await working
        except ShuttingDown:
            await _ended(working)
            await self._db(self._table.release, lease)
        except LeaseLost:
            log.info("job %s was deleted, or is another replica's now", lease.job_id)
            await self._drop(lease)
        except (
            DatabaseUnavailable
        ):  # the lease falls silent, and whoever is there first takes it back
            log.warning("job %s is left until the table can be reached again", lease.job_id)
        except Preempted:
            await self._db(self._table.release, lease, turns=1)
        except RetryLater:
            await self._db(self._table.release, lease, turns=1)
            await self._background.pause(POSTPONED_SECONDS)
        finally:
            await _ended(working)
            await _ended(leaving)
            del self._working[lease]
            self._making.pop(lease, None)
            self.progress.pop(lease.job_id, None)
            self._parts.changes.tell(lease.job_id)

    async def _keep(self, lease: Lease) -> None:
        if self._background.leaving.is_set() or self._parts.draining():
            raise ShuttingDown
        done, total = self.progress.get(lease.job_id, (0, 0))
        making = self._making.get(lease)
        if not await self._db(self._table.heartbeat, lease, done, total, making):
            raise LeaseLost

    async def _work(self, lease: Lease) -> None:
        job = await self._db(self._table.get, lease.job_id)
        if job is None:
            raise LeaseLost
        pictures = await self._db(self._table.pictures, job.id)
        problems = [each.problem for each in pictures if each.finished]
        begun = False
        for picture in pictures:
            if picture.finished:
                continue
            if begun and await self._db(self._table.is_awaited, job):
                raise Preempted
            begun = True
            if job.attempts > MAX_ATTEMPTS:
                problem = problem_of(JobFailed(f"it was begun {MAX_ATTEMPTS} times"))
                await self._commit(lease, picture, problem=problem)
            else:
                problem = await self._answer(lease, job, picture)
            problems.append(problem)
        await self._finish(lease, problems, hook="webhook" in job.request)

    async def _answer(self, lease: Lease, job: Job, picture: JobPicture) -> dict[str, Any] | None:
        """Answer one picture and commit what became of it; the problem, if it was one."""
        result = self._making[lease] = new_blob()
        try:
            headers, written = await self._made(job, picture, result)
        except RetryLater:
            raise
        except Exception as error:
            problem = _problem_of_picture(error, job, picture)
            await self._commit(lease, picture, problem=problem)
            return problem
        try:
            await self._commit(
                lease, picture, blob=result, size=written.bytes, headers=dict(headers)
            )
        except LeaseLost:
            # Whatever else went wrong, the row may name it by now; if not, a sweep finds it.
            await self._parts.store.delete([result])
            raise
        return None

    async def _made(
        self, job: Job, picture: JobPicture, result: str
    ) -> tuple[Mapping[str, str], WrittenBlob]:
        assert picture.input_blob is not None
        self.progress.pop(job.id, None)  # of the picture before
        data = await all_of(self._parts.store, picture.input_blob)
        told_seconds = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal told_seconds
            self.progress[job.id] = (done, total)
            now_seconds = time.monotonic()
            if now_seconds - told_seconds >= TELL_SECONDS:
                told_seconds = now_seconds
                self._parts.changes.tell(job.id)

        async with self._parts.work(job, picture, data, progress) as made:
            return made.headers, await self._parts.store.write(result, made.chunks)

    async def _commit(self, lease: Lease, picture: JobPicture, **outcome: Any) -> None:
        tiles = self.progress.get(lease.job_id, (0, 0))
        kept = await self._db(self._table.finish_picture, lease, picture.n, tiles=tiles, **outcome)
        if not kept:
            raise LeaseLost
        if picture.input_blob is not None:
            await self._parts.store.delete([picture.input_blob])
        self._parts.changes.tell(lease.job_id)

    async def _finish(
        self, lease: Lease, problems: list[dict[str, Any] | None], hook: bool = False
    ) -> None:
        """A job is done where one of its pictures is, failed where none is."""
        failed = all(problem is not None for problem in problems)
        await self._db(
            self._table.finish,
            lease,
            "failed" if failed else "done",
            expires_ms=self._table.now_ms() + int(self._settings.result_seconds * 1000),
            problem=problems[0] if failed else None,
            hook=hook,
        )

    async def abandon(self, job_id: str) -> None:
        """Stop working on a job here, whose lease has ended, and leave nothing of it."""
        for lease in [lease for lease in self._working if lease.job_id == job_id]:
            await self._drop(lease)

    async def _drop(self, lease: Lease) -> None:
        """End the work under a lease that has ended, with what it was making."""
        making, working = self._making.get(lease), self._working.get(lease)
        if working is not None:
            await _ended(working)
        # It may have been committed just before the lease was lost.
        if making is not None and await self._db(self._table.unknown_blobs, [making]):
            await self._parts.store.delete([making])


def _problem_of_picture(error: Exception, job: Job, picture: JobPicture) -> dict[str, Any]:
    """What the picture's client reads; what nobody foresaw is this picture's fault alone."""
    if isinstance(error, ServingError | PictureError):
        return problem_of(error)
    log.error("picture %d of job %s failed", picture.n, job.id, exc_info=error)
    return problem_of(JobFailed(f"it failed ({type(error).__name__})"))


async def _ended(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
