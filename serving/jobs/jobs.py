"""Jobs for the routes: submit, show, follow, fetch and delete."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from serving.errors import JobGone, JobNotFinished, ServingError, UnknownJob
from serving.jobs.database import DatabaseUnavailable
from serving.jobs.opening import LazyJobServices
from serving.jobs.rows import Input, Job, JobPicture, NewJob
from serving.jobs.views import JobView, Receipt, iso_time, view_of
from serving.jobs.webhooks import secret_text
from serving.requests.options import Options

POLL_SECONDS = 1.0  # for changes of a job that runs on another replica
RECEIPT = "receipt"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmission:
    """A client's request for a job, without the pictures."""

    client: str
    options: Options
    accept: str = ""
    idempotency_key: str | None = None
    webhook: str | None = None
    priority: int = 5
    max_queued: int | None = None  # jobs of this client; None for the server's limit
    delete_on_fetch: bool = False


class Jobs(LazyJobServices):
    """All operations on jobs; used on the event loop."""

    async def submit(
        self, submission: JobSubmission, inputs: list[Input], fingerprints: list[str]
    ) -> Job:
        """Queue a job, or return the one that this idempotency key created.

        `fingerprints` identify the inputs' contents. If the job is refused or not new, the inputs'
        blobs are deleted. Raises ForbiddenAddress for the webhook, UploadMismatch, and what
        `JobTable.add` does.
        """
        parts = await self._open()
        blobs = [each.blob for each in inputs if each.blob is not None]
        try:
            if submission.webhook is not None:
                await self._guard.check(submission.webhook)
            uploads = [each.upload for each in inputs if each.upload is not None]
            await parts.uploads.claim_direct_uploads(submission.client, uploads)
            new = self._new(submission, inputs, fingerprints, parts.database.table.now_ms())
            job, is_new = await parts.database(
                parts.database.table.add,
                new,
                max_queued=submission.max_queued or self._settings.max_queued_per_client,
            )
        except DatabaseUnavailable:  # the insert may be committed; if not, a sweep finds the blobs
            raise
        except ServingError:
            await parts.store.delete(blobs)
            raise
        if is_new:
            self._new_jobs.notify()
        else:
            await parts.store.delete(blobs)
        return job

    async def find(self, job_id: str, client: str | None) -> Job:
        """A job of this client; None skips the check of the owner. Raises UnknownJob."""
        parts = await self._open()
        job = await parts.database(parts.database.table.get, job_id)
        if job is None or (client is not None and job.client != client):
            raise UnknownJob(f"there is no job {job_id[:64]!r} of yours")
        return job

    async def view(self, job: Job, *, pictures: bool = True) -> JobView:
        """The job as its client sees it, with or without its pictures."""
        parts = await self._open()
        progress = await parts.database(parts.database.table.progress, job, pictures=pictures)
        secret = parts.signer.derive_secret("webhook", job.client)
        return view_of(
            job,
            progress,
            tiles=parts.runner.progress.get(job.id, (job.tiles_done, job.tiles_total)),
            webhook_secret=secret_text(secret) if "webhook" in job.request else None,
            signer=parts.signer,
        )

    async def watch(self, job: Job) -> AsyncGenerator[JobView]:
        """Like `follow`, but yields the job's view without its pictures."""
        async with contextlib.aclosing(self.follow(job)) as changes:
            async for now in changes:
                yield await self.view(now, pictures=False)

    async def follow(self, job: Job) -> AsyncGenerator[Job]:
        """Yield the job now and after every change, until it finishes or the server drains."""
        with self._job_changes.subscribe(job.id) as changed:
            while True:
                changed.clear()
                yield job
                if job.finished or self._draining():
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), POLL_SECONDS)
                job = await self.find(job.id, None)

    async def wait(self, job: Job, seconds: float) -> Job:
        """The job once it is finished, or after `seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), contextlib.aclosing(self.follow(job)) as changes:
                async for now in changes:
                    job = now
        return job

    async def result(self, job: Job, n: int) -> JobPicture:
        """A picture that is finished. Raises JobGone, JobNotFinished, UnknownJob."""
        if job.erased:
            raise JobGone(f"the job was {job.state}")
        parts = await self._open()
        picture = await parts.database(parts.database.table.picture, job.id, n)
        if picture is None:
            raise UnknownJob(f"the job has no picture {n}")
        if picture.result_blob is None and picture.result_bytes is not None:
            raise JobGone("the result was deleted after it was fetched")
        if not picture.finished and not job.finished:
            raise JobNotFinished(f"the job is {job.state}")
        return picture

    async def download_url(self, job: Job, picture: JobPicture) -> str | None:
        """The presigned URL of a result; None if it has to be fetched from this server.

        A result that is deleted on fetch has none, because the server has to see the fetch.
        """
        presigned_urls = (await self._open()).store.presigned_urls
        on_fetch = job.request.get("delete_on_fetch")
        if presigned_urls is None or picture.result_blob is None or on_fetch:
            return None
        table = (await self._open()).database.table
        left_seconds = (job.expires_ms - table.now_ms()) / 1000
        return presigned_urls.get_url(picture.result_blob, left_seconds, picture.headers)

    async def read(self, job: Job, picture: JobPicture) -> AsyncGenerator[bytes]:
        """Yield a result's bytes; with `delete_on_fetch` it is deleted after the last one.

        The last byte is a chunk of its own, requested once all others are sent. Many clients close
        the connection as soon as they have it, which must not prevent the deletion.
        """
        parts = await self._open()
        assert picture.result_blob is not None
        left = picture.result_bytes or 0
        try:
            async with contextlib.aclosing(parts.store.read(picture.result_blob)) as chunks:
                async for chunk in chunks:
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
                task = asyncio.create_task(self._delete_fetched(job, picture))
                self._deletions.add(task)
                task.add_done_callback(self._deletions.discard)

    async def _delete_fetched(self, job: Job, picture: JobPicture) -> None:
        """Delete a fetched result, and the job after its last result."""
        parts = await self._open()
        blob, left = await parts.database(parts.database.table.drop_result, job.id, picture.n)
        if blob is not None:
            await parts.store.delete([blob])
        if not left and job.finished:
            await self.erase(job)

    async def erase(self, job: Job) -> Receipt:
        """Cancel or delete a job with all its data; the receipt states the time.

        The receipt is created after every blob is deleted: if the store cannot be reached or the
        process is killed, the next call continues the deletion.
        """
        parts = await self._open()
        table = parts.database.table
        soon_ms = table.now_ms() + int(self._settings.result_seconds * 1000)
        if await parts.database(table.cancel, job.id, expires_ms=soon_ms):
            await parts.runner.abandon(job.id)
            blobs = await parts.database(table.blobs, job.id)
            await parts.store.delete(blobs)
            erased = await self.find(job.id, None)
            facts = {
                "job": job.id,
                "state": erased.state,
                "deleted": iso_time(table.now_ms()),
                "blobs": len(blobs),
            }
            signed = parts.signer.signed(RECEIPT, facts)
            await parts.database(table.erase, job.id, receipt=signed)
            await parts.database(table.truncate_wal)
            self._job_changes.notify(job.id)
        erased = await self.find(job.id, None)
        assert erased.receipt is not None
        return Receipt(**erased.receipt)

    async def result_url_is_valid(
        self, job_id: str, n: int, expires_ms: int, signature: str
    ) -> bool:
        """Whether a signed result URL is authentic and has not expired."""
        parts = await self._open()
        verified = parts.signer.verify("result", f"{job_id}:{n}:{expires_ms}", signature)
        return verified and expires_ms > parts.database.table.now_ms()

    async def is_authentic(self, receipt: Receipt) -> bool:
        """Whether the receipt was signed with this server's key."""
        return (await self._open()).signer.is_signed(RECEIPT, receipt.model_dump())

    def _new(
        self, submission: JobSubmission, inputs: list[Input], fingerprints: list[str], now_ms: int
    ) -> NewJob:
        request: dict[str, Any] = {
            "options": submission.options.model_dump(exclude_defaults=True),
            "accept": submission.accept,
            "delete_on_fetch": submission.delete_on_fetch,
        }
        if submission.webhook is not None:
            request["webhook"] = submission.webhook
        names = [each.name for each in inputs]
        canonical = json.dumps([request, submission.priority, names, fingerprints], sort_keys=True)
        return NewJob(
            client=submission.client,
            request=request,
            inputs=tuple(inputs),
            fingerprint=hashlib.sha256(canonical.encode()).hexdigest(),
            expires_ms=now_ms + int(self._settings.wait_seconds * 1000),
            priority=submission.priority,
            idempotency_key=submission.idempotency_key,
        )
