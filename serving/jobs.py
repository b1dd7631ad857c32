"""Jobs as the routes see them: handed in, looked at, fetched, deleted.

Nothing is opened before the first job, upload, or restart over a folder that has jobs: a server
that is only asked to enhance writes nowhere.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError

from serving.errors import (
    JobGone,
    JobNotOver,
    NotReady,
    Problem,
    UnknownJob,
    UnknownUpload,
    UploadGone,
    UploadMismatch,
)
from serving.leases import Input, Job, JobPicture, JobTable, NewJob, Removed, Upload, new_id
from serving.options import Options
from serving.runner import Changes, Database, Runner, RunnerParts, Work
from serving.settings import JobSettings
from serving.signing import Signer, load_signer
from serving.store import FolderStore, Store, new_blob
from serving.webhooks import Guard, GuardedNetwork, Webhooks, secret_text
from superres.errors import SharplineError

log = logging.getLogger(__name__)

DATABASE = "jobs.db"
BLOBS = "pictures"
KEY = "signing.key"
LOOK_SECONDS = 1.0  # between looks at a job that another replica works on
RECEIPT = "receipt"


class Progress(BaseModel):
    """How far a job is; tiles are those of the picture that is being worked on."""

    model_config = ConfigDict(frozen=True)

    pictures_done: int
    pictures_total: int
    tiles_done: int
    tiles_total: int


class PictureView(BaseModel):
    """One picture of a job."""

    model_config = ConfigDict(frozen=True)

    n: int
    name: str
    state: Literal["waiting", "done", "failed", "fetched"]
    bytes: int | None = None
    result: str | None = Field(None, description="signed address; needs no key, and ends")
    problem: Problem | None = None


class Receipt(BaseModel):
    """What proves a deletion; `POST /v1/receipts/verify` knows it again."""

    model_config = ConfigDict(extra="forbid")

    job: str
    state: str
    deleted: str
    blobs: int
    signature: str


class JobView(BaseModel):
    """A job as its client sees it."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "deleted"]
    created: str
    finished: str | None = None
    expires: str
    place: int | None = Field(None, description="in the queue, from 1; at most 1000 are counted")
    progress: Progress
    pictures: list[PictureView]
    problem: Problem | None = None
    receipt: Receipt | None = None
    webhook_secret: str | None = Field(
        None, description="checks the webhook's signature (Standard Webhooks)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a client asks of a job, beside its pictures."""

    client: str
    options: Options
    accept: str = ""
    idempotency_key: str | None = None
    webhook: str | None = None
    priority: int = 5
    delete_on_fetch: bool = False


@dataclass(frozen=True, slots=True)
class _Open:
    """What there is once jobs are in use."""

    database: Database
    store: Store
    signer: Signer
    runner: Runner


class Jobs:
    """Everything about jobs; used on the event loop."""

    def __init__(
        self, settings: JobSettings, work: Work, draining: Callable[[], bool], guard: Guard
    ) -> None:
        self._settings = settings
        self._work = work
        self._draining = draining
        self._guard = guard
        self._arrivals = Changes()
        self._changes = Changes()
        self._opening = asyncio.Lock()
        self._opened: _Open | None = None
        self._dropping: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Go on with what an earlier process has left, if there is anything."""
        used = self._settings.database is not None or (self._settings.folder / DATABASE).exists()
        if used:
            with contextlib.suppress(NotReady):  # logged; pictures are served without jobs
                await self._open()

    async def stop(self) -> None:
        """Give back what is worked on; another replica, or the next process, goes on with it."""
        if self._opened is not None:
            await asyncio.gather(*self._dropping, return_exceptions=True)
            await self._opened.runner.stop()
            await to_thread.run_sync(self._opened.database.table.close)

    async def store(self) -> Store:
        return (await self._open()).store

    async def signer(self) -> Signer:
        return (await self._open()).signer

    async def submit(self, wanted: Wanted, inputs: list[Input], fingerprints: list[str]) -> Job:
        """Enter a job, or find the one that this idempotency key has made.

        `fingerprints` tell the inputs' contents apart. On whatever is raised, and where the job is
        not new, the inputs' blobs are removed. Raises ForbiddenAddress for the webhook, and what
        `JobTable.add` does.
        """
        parts = await self._open()
        blobs = [each.blob for each in inputs if each.blob is not None]
        try:
            if wanted.webhook is not None:
                await self._guard.check(wanted.webhook)
            new = self._new(wanted, inputs, fingerprints, parts.database.table.now_ms())
            job, is_new = await parts.database(
                parts.database.table.add, new, most_queued=self._settings.max_queued_per_client
            )
        except BaseException:
            await asyncio.shield(parts.store.delete(blobs))
            raise
        if is_new:
            self._arrivals.tell()
        else:
            await parts.store.delete(blobs)
        return job

    async def find(self, job_id: str, client: str | None) -> Job:
        """A job of this client; None stands for who need not say. Raises UnknownJob."""
        parts = await self._open()
        job = await parts.database(parts.database.table.get, job_id)
        if job is None or (client is not None and job.client != client):
            raise UnknownJob(f"there is no job {job_id[:64]!r} of yours")
        return job

    async def view(self, job: Job) -> JobView:
        """The job as it is shown."""
        parts = await self._open()
        table = parts.database.table
        pictures = await parts.database(table.pictures, job.id)
        place = await parts.database(table.place, job) if job.state == "queued" else None
        done, total = parts.runner.progress.get(job.id, (job.tiles_done, job.tiles_total))
        secret = parts.signer.derived("webhook", job.client)
        return JobView(
            id=job.id,
            state=job.state,
            created=_moment(job.created_ms),
            finished=None if job.finished_ms is None else _moment(job.finished_ms),
            expires=_moment(job.expires_ms),
            place=place,
            progress=Progress(
                pictures_done=sum(_state_of(each) != "waiting" for each in pictures),
                pictures_total=len(pictures),
                tiles_done=done,
                tiles_total=total,
            ),
            pictures=[self._picture_view(parts.signer, job, each) for each in pictures],
            problem=None if job.problem is None else Problem(**job.problem),
            receipt=None if job.receipt is None else Receipt(**job.receipt),
            webhook_secret=secret_text(secret) if "webhook" in job.request else None,
        )

    async def watch(self, job: Job) -> AsyncGenerator[JobView]:
        """The job now and after every change, until it is over or the server leaves."""
        with self._changes.listen() as changed:
            while True:
                changed.clear()
                yield await self.view(job)
                if job.over or self._draining():
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_SECONDS)
                job = await self.find(job.id, None)

    async def wait(self, job: Job, seconds: float) -> Job:
        """The job once it is over, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in self.watch(job):
                    job = await self.find(job.id, None)
        return job

    async def result(self, job: Job, n: int) -> JobPicture:
        """A picture whose result is there. Raises JobGone, JobNotOver, UnknownJob."""
        if job.state in ("cancelled", "deleted"):
            raise JobGone(f"the job was {job.state}")
        parts = await self._open()
        picture = await parts.database(parts.database.table.picture, job.id, n)
        if picture is None:
            raise UnknownJob(f"the job has no picture {n}")
        if picture.result_blob is None and picture.result_bytes is not None:
            raise JobGone("the result was fetched, and is deleted")
        if not picture.over and not job.over:
            raise JobNotOver(f"the job is {job.state}")
        return picture

    async def read(self, job: Job, picture: JobPicture) -> AsyncGenerator[bytes]:
        """A result's bytes; one that is to be deleted on fetch is gone after the last.

        The last byte goes alone: it is asked for once the connection has taken the others. Many
        clients hang up as soon as they have it, which must not call the deletion off.
        """
        parts = await self._open()
        assert picture.result_blob is not None
        left = picture.result_bytes or 0
        try:
            async for chunk in parts.store.read(picture.result_blob):
                if len(chunk) < left:
                    left -= len(chunk)
                    yield chunk
                    continue
                if len(chunk) > 1:
                    yield chunk[:-1]
                left = 0
                yield chunk[-1:]
        finally:
            if not left and job.request.get("delete_on_fetch"):
                task = asyncio.create_task(self._drop(job, picture))
                self._dropping.add(task)
                task.add_done_callback(self._dropping.discard)

    async def _drop(self, job: Job, picture: JobPicture) -> None:
        """Delete a result that was fetched, and the job with its last one."""
        parts = await self._open()
        blob, left = await parts.database(parts.database.table.drop_result, job.id, picture.n)
        if blob is not None:
            await parts.store.delete([blob])
        if not left and job.over:
            await self.erase(job)

    async def erase(self, job: Job) -> Receipt:
        """Cancel or delete a job with everything that is its; the receipt says when."""
        parts = await self._open()
        table = parts.database.table

        def receipt(state: str, blobs: int) -> dict[str, Any]:
            facts = {
                "job": job.id,
                "state": state,
                "deleted": _moment(table.now_ms()),
                "blobs": blobs,
            }
            return parts.signer.signed(RECEIPT, facts)

        removed: Removed = await parts.database(table.erase, job.id, receipt=receipt)
        await parts.runner.remove(removed)
        erased = await self.find(job.id, None)
        assert erased.receipt is not None
        return Receipt(**erased.receipt)

    async def result_address_holds(self, job_id: str, n: int, ends: int, signature: str) -> bool:
        """Whether a signed address of a result is one of ours, and not yet at its end."""
        parts = await self._open()
        right = parts.signer.right("result", f"{job_id}:{n}:{ends}", signature)
        return right and ends > parts.database.table.now_ms()

    async def is_right(self, receipt: Receipt) -> bool:
        """Whether this server, or one with its key, made the receipt."""
        return (await self.signer()).is_signed(RECEIPT, receipt.model_dump())

    async def announce(self, client: str, size: int, sha256: str | None) -> tuple[Upload, str]:
        """A new upload, and where its bytes go."""
        parts = await self._open()
        now_ms = parts.database.table.now_ms()
        upload = Upload(
            id=new_id(now_ms),
            client=client,
            blob=new_blob(),
            bytes=size,
            sha256=sha256,
            expires_ms=now_ms + int(self._settings.upload_seconds * 1000),
            stored=False,
        )
        await parts.database(parts.database.table.add_upload, upload)
        signature = parts.signer.sign("upload", f"{upload.id}:{upload.expires_ms}")
        return upload, f"/v1/uploads/{upload.id}?ends={upload.expires_ms}&signature={signature}"

    async def open_upload(self, upload_id: str) -> Upload:
        """An upload that waits for its bytes. Raises UnknownUpload, UploadGone."""
        parts = await self._open()
        upload = await parts.database(parts.database.table.upload, upload_id)
        if upload is None:
            raise UnknownUpload(f"there is no upload {upload_id[:64]!r}")
        if upload.expires_ms <= parts.database.table.now_ms():
            raise UploadGone("the upload has expired")
        if upload.stored:
            raise UploadGone("the upload's bytes have arrived already")
        return upload

    async def keep_upload(self, upload: Upload, chunks: AsyncGenerator[bytes]) -> None:
        """Take an upload's bytes. Raises UploadMismatch where they are not those announced."""
        parts = await self._open()
        blob = upload.blob
        written = await parts.store.write(blob, chunks)
        fault = None
        if written.bytes != upload.bytes:
            fault = f"{upload.bytes:,} bytes were announced, {written.bytes:,} came"
        elif upload.sha256 is not None and written.sha256 != upload.sha256:
            fault = f"the SHA-256 of what came is {written.sha256}"
        if fault is not None:
            await parts.store.delete([blob])
            raise UploadMismatch(fault)
        await parts.database(parts.database.table.upload_stored, upload.id)

    def _new(
        self, wanted: Wanted, inputs: list[Input], fingerprints: list[str], now_ms: int
    ) -> NewJob:
        request: dict[str, Any] = {
            "options": wanted.options.model_dump(exclude_defaults=True),
            "accept": wanted.accept,
            "delete_on_fetch": wanted.delete_on_fetch,
        }
        if wanted.webhook is not None:
            request["webhook"] = wanted.webhook
        names = [each.name for each in inputs]
        whole = json.dumps([request, wanted.priority, names, fingerprints], sort_keys=True)
        return NewJob(
            client=wanted.client,
            request=request,
            inputs=tuple(inputs),
            fingerprint=hashlib.sha256(whole.encode()).hexdigest(),
            expires_ms=now_ms + int(self._settings.wait_seconds * 1000),
            priority=wanted.priority,
            idempotency_key=wanted.idempotency_key,
        )

    def _picture_view(self, signer: Signer, job: Job, picture: JobPicture) -> PictureView:
        state = _state_of(picture)
        link = None
        if state == "done":
            ends = job.expires_ms
            signature = signer.sign("result", f"{job.id}:{picture.n}:{ends}")
            link = f"/v1/jobs/{job.id}/result?n={picture.n}&ends={ends}&signature={signature}"
        return PictureView(
            n=picture.n,
            name=picture.name,
            state=state,
            bytes=picture.result_bytes,
            result=link,
            problem=None if picture.problem is None else Problem(**picture.problem),
        )

    async def _open(self) -> _Open:
        async with self._opening:
            if self._opened is None:
                try:
                    self._opened = await to_thread.run_sync(self._opened_now)
                except (SharplineError, OSError, SQLAlchemyError) as error:
                    log.error("jobs cannot be kept: %s", error)
                    raise NotReady("this server has no place for jobs; its log says why") from None
                self._opened.runner.start()
            return self._opened

    def _opened_now(self) -> _Open:
        settings = self._settings
        store = FolderStore(settings.folder / BLOBS)  # which marks it before anything else
        signer = load_signer(settings.folder / KEY)
        url = settings.database or f"sqlite:///{(settings.folder / DATABASE).absolute()}"
        database = Database(JobTable(url))
        parts = RunnerParts(
            database=database,
            store=store,
            signer=signer,
            webhooks=Webhooks(GuardedNetwork(self._guard), settings.webhook_seconds),
            work=self._work,
            arrivals=self._arrivals,
            changes=self._changes,
            settings=settings,
            draining=self._draining,
        )
        return _Open(database, store, signer, Runner(parts))


def _state_of(picture: JobPicture) -> Literal["waiting", "done", "failed", "fetched"]:
    if picture.problem is not None:
        return "failed"
    if picture.result_blob is not None:
        return "done"
    return "waiting" if picture.result_bytes is None else "fetched"


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
