"""Works off the queue of jobs inside the server: a few at a time, beneath what clients wait for.

Every job runs under a lease that is kept alive from here. Leaving gives the leases back, so that
another replica goes on at once; being killed leaves them silent, and another takes them back.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import OperationalError

from serving.errors import (
    ForbiddenAddress,
    JobFailed,
    NotReady,
    ServingError,
    StorageFull,
    TryLater,
    problem_of,
)
from serving.job_rows import Job, JobPicture, Lease, Removed
from serving.leases import JobTable
from serving.settings import JobSettings
from serving.signing import Signer
from serving.store import Store, Written, all_of, blob_of, new_blob
from serving.webhooks import WebhookFailed, Webhooks, retry_after_seconds
from superres.image import PictureError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MOST_ATTEMPTS = 5  # of one job, before it counts as what kills the process
POSTPONED_SECONDS = 0.5  # until a job that found the server full is tried again
UNKNOWN_SECONDS = 600.0  # that a blob may lie about unchanged before anything names it
TELL_SECONDS = 0.1  # between two tellings of how far a picture is
MOST_ASKED = 500  # blobs, of the table at once
MOST_EXPIRED = 500  # removed by one statement, which locks the table meanwhile


class LeaseLost(Exception):
    """Another replica has the job now, or its client has deleted it."""


class LeavingNow(Exception):
    """The server is to stop; the job goes back."""


class DatabaseAway(NotReady):
    """The table of jobs cannot be reached now; what it was told before holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An answer on its way into the store, with what the synchronous answer has as headers."""

    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Work(Protocol):
    """Answers one picture; `progress` hears tiles done and tiles of the picture."""

    def __call__(
        self, job: Job, picture: JobPicture, data: bytes, progress: Callable[[int, int], None]
    ) -> AbstractAsyncContextManager[Made]: ...


class Changes:
    """Wakes those in this process who wait for something to change, by its name."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, name: str = "") -> None:
        for event in self._waiting.get(name, ()):
            event.set()

    @contextlib.contextmanager
    def listen(self, name: str = "") -> Generator[asyncio.Event]:
        """An event that is set at every change from now on."""
        event = asyncio.Event()
        self._waiting.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[name].discard(event)
            if not self._waiting[name]:
                del self._waiting[name]


class Database:
    """The table from the event loop: every call on one of a few threads."""

    def __init__(self, table: JobTable) -> None:
        self.table = table
        self._threads = CapacityLimiter(4)

    async def __call__(self, call: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """What the table answers. Raises DatabaseAway, StorageFull, and what `call` raises."""
        try:
            return await to_thread.run_sync(
                partial(call, *arguments, **named), limiter=self._threads
            )
        except OperationalError as error:
            if _is_full(error):
                raise StorageFull("there is no room to note this down") from error
            raise DatabaseAway("the table of jobs cannot be reached") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerParts:
    """What a runner is made of; `draining` says that the server is about to leave."""

    database: Database
    store: Store
    signer: Signer
    webhooks: Webhooks
    work: Work
    arrivals: Changes  # jobs that came in here
    changes: Changes  # what becomes of jobs here, by their id
    settings: JobSettings
    draining: Callable[[], bool]


class Runner:
    """Claims, works, takes back, sweeps and tells."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._db = parts.database
        self._table = parts.database.table
        self._settings = parts.settings
        self._leaving = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._deliveries: set[asyncio.Task[None]] = set()
        self._silent: dict[Lease, tuple[int, float]] = {}
        self._unknown: dict[str, tuple[str, float]] = {}  # stamp, and since when it is that
        self._making: dict[str, str] = {}  # blobs that are being written, by job
        self._working: dict[str, asyncio.Task[None]] = {}
        self.counts: dict[tuple[str, ...], float] = {}  # of all replicas' jobs, by state
        self.progress: dict[str, tuple[int, int]] = {}  # of the jobs that run here

    def start(self) -> None:
        """Begin to work; on the event loop."""
        loops = [self._claims] * self._settings.workers
        loops += [self._watches, self._sweeps, self._tells]
        self._tasks = [asyncio.create_task(self._forever(loop)) for loop in loops]

    async def stop(self) -> None:
        """Give every lease back and end."""
        self._leaving.set()
        self._parts.arrivals.tell()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._deliveries:
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)

    async def _forever(self, turn: Callable[[], Any]) -> None:
        """Again and again until the end; a database that is away for a while is waited for."""
        while not self._leaving.is_set():
            try:
                await turn()
            except TryLater as error:
                log.warning("jobs: %s; it is tried again", error)
                await self._pause(self._settings.poll_seconds)
            except Exception:
                log.exception("jobs: %s failed and is tried again", turn.__name__)
                await self._pause(self._settings.poll_seconds)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)

    async def _claims(self) -> None:
        if self._parts.draining():
            await self._pause(self._settings.poll_seconds)
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
        working = self._working[lease.job_id] = asyncio.create_task(self._work(lease))
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            while not working.done():
                await asyncio.wait(
                    {working, leaving},
                    timeout=self._settings.beat_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not working.done():
                    await self._keep(lease)
            if working.cancelled():
                raise LeaseLost
            await working
        except LeavingNow:
            await _ended(working)
            await self._db(self._table.release, lease)
        except LeaseLost:
            log.info("job %s was deleted, or is another replica's now", lease.job_id)
        except DatabaseAway:  # the lease falls silent, and whoever is there first takes it back
            log.warning("job %s is left until the table can be reached again", lease.job_id)
        except TryLater:  # others have their turn first
            await self._db(self._table.release, lease, turns=1)
            await self._pause(POSTPONED_SECONDS)
        finally:
            await _ended(working)
            await _ended(leaving)
            self._working.pop(lease.job_id, None)
            self._making.pop(lease.job_id, None)
            self.progress.pop(lease.job_id, None)
            self._parts.changes.tell(lease.job_id)

    async def _keep(self, lease: Lease) -> None:
        if self._leaving.is_set() or self._parts.draining():
            raise LeavingNow
        done, total = self.progress.get(lease.job_id, (0, 0))
        making = self._making.get(lease.job_id)
        if not await self._db(self._table.beat, lease, done, total, making):
            raise LeaseLost

    async def _work(self, lease: Lease) -> None:
        job = await self._db(self._table.get, lease.job_id)
        if job is None:
            raise LeaseLost
        pictures = await self._db(self._table.pictures, job.id)
        problems = [each.problem for each in pictures if each.over]
        for picture in pictures:
            if picture.over:
                continue
            if job.attempts > MOST_ATTEMPTS:
                problem = problem_of(JobFailed(f"it was begun {MOST_ATTEMPTS} times"))
                await self._commit(lease, picture, problem=problem)
            else:
                problem = await self._answer(lease, job, picture)
            problems.append(problem)
        await self._finish(lease, problems, hook="webhook" in job.request)

    async def _answer(self, lease: Lease, job: Job, picture: JobPicture) -> dict[str, Any] | None:
        """Answer one picture and commit what became of it; the problem, if it was one."""
        result = self._making[job.id] = new_blob()
        try:
            headers, written = await self._made(job, picture, result)
        except TryLater:
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
    ) -> tuple[Mapping[str, str], Written]:
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
            return made.headers, await self._parts.store.write(result, made.pieces)

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

    async def _watches(self) -> None:
        """Take back what has been silent for a whole lease, by this process's own clock."""
        now_seconds = time.monotonic()
        running = await self._db(self._table.running)
        waiting = await self._db(self._table.waiting)
        self.counts = {("queued",): waiting, ("running",): len(running)}
        before, self._silent = self._silent, {}
        for lease, beat in running:
            known = before.get(lease)
            since = known[1] if known is not None and known[0] == beat else now_seconds
            self._silent[lease] = (beat, since)
            if now_seconds - since >= self._settings.lease_seconds and await self._db(
                self._table.take_back, lease, beat
            ):
                log.warning("job %s is taken back from a replica that is silent", lease.job_id)
                self._parts.arrivals.tell()
                self._parts.changes.tell(lease.job_id)
        await self._pause(min(1.0, self._settings.lease_seconds / 4))

    async def _sweeps(self) -> None:
        """Remove what has expired, and blobs that nothing has named for a while."""
        while True:
            removed = await self._db(self._table.expire, MOST_EXPIRED)
            await self.remove(removed)
            if len(removed.job_ids) < MOST_EXPIRED and len(removed.blobs) < MOST_EXPIRED:
                break
        await self._sweep_unknown()
        await self._pause(self._settings.sweep_seconds)

    async def _sweep_unknown(self) -> None:
        """A blob that a writer adds to has another stamp at every look, so it is never old."""
        now_seconds = time.monotonic()
        stamps = await self._parts.store.stamps()
        blobs = list({blob_of(name) for name in stamps})
        strange: set[str] = set()
        for start in range(0, len(blobs), MOST_ASKED):
            some = blobs[start : start + MOST_ASKED]
            strange.update(await self._db(self._table.unknown_blobs, some))
        unknown = [name for name in stamps if blob_of(name) in strange]
        before, self._unknown = self._unknown, {}
        for name in unknown:
            stamp, since = before.get(name, ("", 0.0))
            self._unknown[name] = (
                stamps[name],
                since if stamp == stamps[name] else now_seconds,
            )
        late = [
            name
            for name, (_, since) in self._unknown.items()
            if now_seconds - since > UNKNOWN_SECONDS
        ]
        await self._parts.store.delete(late)

    async def abandon(self, job_id: str) -> None:
        """Stop working on a job here, whose lease has ended, and leave nothing of it."""
        working = self._working.get(job_id)
        if working is not None:
            await _ended(working)

    async def remove(self, removed: Removed) -> None:
        """Delete the blobs of what was taken out of the table, and its traces."""
        if removed.blobs:
            await self._parts.store.delete(removed.blobs)
        if removed.job_ids or removed.blobs:
            await self._db(self._table.forget)
        for job_id in removed.job_ids:
            self._parts.changes.tell(job_id)

    async def _tells(self) -> None:
        """Begin the deliveries that are due; none waits for another."""
        hold_ms = int(self._settings.webhook_seconds * 3000)
        for job in await self._db(self._table.due_hooks, hold_ms):
            task = asyncio.create_task(self._tell(job))
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)
        await self._pause(self._settings.poll_seconds)

    async def _tell(self, job: Job) -> None:
        body = json.dumps(
            {
                "type": f"job.{job.state}",
                "timestamp": job.finished_ms,
                "data": {"id": job.id, "state": job.state},
            }
        ).encode()
        secret = self._parts.signer.derived("webhook", job.client)
        again_ms = None
        try:
            await self._parts.webhooks.deliver(job.request["webhook"], secret, job.id, body)
        except (WebhookFailed, ForbiddenAddress) as error:
            log.warning("the webhook of job %s: %s", job.id, error)
            wait_seconds = retry_after_seconds(job.hook_attempts)
            if wait_seconds is not None and not getattr(error, "forever", False):
                again_ms = self._table.now_ms() + int(wait_seconds * 1000)
        await self._db(self._table.hook_over, job.id, again_ms=again_ms)


def _problem_of_picture(error: Exception, job: Job, picture: JobPicture) -> dict[str, Any]:
    """What the picture's client reads; what nobody foresaw is this picture's fault alone."""
    if isinstance(error, ServingError | PictureError):
        return problem_of(error)
    log.error("picture %d of job %s failed", picture.n, job.id, exc_info=error)
    return problem_of(JobFailed(f"it failed ({type(error).__name__})"))


def _is_full(error: OperationalError) -> bool:
    """Whether SQLite or Postgres said that the disk is full."""
    return (
        getattr(error.orig, "sqlite_errorname", "") == "SQLITE_FULL"
        or getattr(error.orig, "sqlstate", "") == "53100"
    )


async def _ended(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
