"""Keeps the house of jobs: takes work back from the dead, removes what is over, tells clients."""

import asyncio
import json
import logging
import time

from serving.background import BackgroundTasks
from serving.errors import ForbiddenAddress
from serving.jobs.database import Changes, Database
from serving.jobs.rows import Job, Lease, RemovedJobs
from serving.jobs.store import Store, blob_of
from serving.jobs.views import iso_time
from serving.jobs.webhooks import WebhookFailed, Webhooks, retry_after_seconds
from serving.requests.signing import Signer
from serving.setting_groups import JobSettings

log = logging.getLogger(__name__)

UNKNOWN_SECONDS = 600.0  # that a blob may lie about unchanged before anything names it
POLL_SECONDS = 1.0  # between two looks at who is silent, at the most
MAX_ASKED = 500  # blobs, of the table at once
MAX_EXPIRED = 500  # removed by one statement, which locks the table meanwhile


class Reaper:
    """Everything about jobs that nobody asks for and that has to be done."""

    def __init__(
        self,
        database: Database,
        store: Store,
        signer: Signer,
        webhooks: Webhooks,
        *,
        arrivals: Changes,
        changes: Changes,
        settings: JobSettings,
    ) -> None:
        self._db = database
        self._table = database.table
        self._store = store
        self._signer = signer
        self._webhooks = webhooks
        self._arrivals = arrivals
        self._changes = changes
        self._settings = settings
        self._background = BackgroundTasks(settings.poll_seconds)
        self._deliveries: set[asyncio.Task[None]] = set()
        self._silent: dict[Lease, tuple[int, float]] = {}
        self._unknown: dict[str, tuple[str, float]] = {}  # stamp, and since when it is that
        self.counts: dict[tuple[str, ...], float] = {}  # of all replicas' jobs, by state

    def start(self) -> None:
        """Begin; on the event loop."""
        self._background.start(self._reclaim_silent, self._sweep, self._deliver_due)

    async def stop(self) -> None:
        """End; a delivery that is under way is tried again later."""
        await self._background.stop()
        for task in self._deliveries:
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)

    async def _reclaim_silent(self) -> None:
        """Take back what has been silent for a whole lease, by this process's own clock."""
        now_seconds = time.monotonic()
        running = await self._db(self._table.running)
        waiting = await self._db(self._table.waiting)
        self.counts = {("queued",): waiting, ("running",): len(running)}
        before, self._silent = self._silent, {}
        for lease, heartbeat in running:
            known = before.get(lease)
            since = known[1] if known is not None and known[0] == heartbeat else now_seconds
            self._silent[lease] = (heartbeat, since)
            if now_seconds - since >= self._settings.lease_seconds and await self._db(
                self._table.reclaim, lease, heartbeat
            ):
                log.warning("job %s is taken back from a replica that is silent", lease.job_id)
                self._arrivals.tell()
                self._changes.tell(lease.job_id)
        await self._background.pause(min(POLL_SECONDS, self._settings.lease_seconds / 4))

    async def _sweep(self) -> None:
        """Remove what has expired, and blobs that nothing has named for a while."""
        while True:
            removed = await self._db(self._table.expire, MAX_EXPIRED)
            await self.remove(removed)
            if len(removed.job_ids) < MAX_EXPIRED and len(removed.blobs) < MAX_EXPIRED:
                break
        await self._sweep_unknown()
        await self._background.pause(self._settings.sweep_seconds)

    async def _sweep_unknown(self) -> None:
        """A blob that a writer adds to has another stamp at every look, so it is never old."""
        now_seconds = time.monotonic()
        modified_times = await self._store.modified_times()
        blobs = list({blob for name in modified_times if (blob := blob_of(name)) is not None})
        strange: set[str] = set()
        for start in range(0, len(blobs), MAX_ASKED):
            some = blobs[start : start + MAX_ASKED]
            strange.update(await self._db(self._table.unknown_blobs, some))
        unknown = [name for name in modified_times if blob_of(name) in strange]
        before, self._unknown = self._unknown, {}
        for name in unknown:
            stamp, since = before.get(name, ("", 0.0))
            self._unknown[name] = (
                modified_times[name],
                since if stamp == modified_times[name] else now_seconds,
            )
        late = [
            name
            for name, (_, since) in self._unknown.items()
            if now_seconds - since > UNKNOWN_SECONDS
        ]
        await self._store.delete(late)

    async def remove(self, removed: RemovedJobs) -> None:
        """Delete the blobs of what was taken out of the table, and its traces."""
        if removed.blobs:
            await self._store.delete(removed.blobs)
        if removed.job_ids or removed.blobs:
            await self._db(self._table.forget)
        for job_id in removed.job_ids:
            self._changes.tell(job_id)

    async def _deliver_due(self) -> None:
        """Begin the deliveries that are due; none waits for another."""
        hold_ms = int(self._settings.webhook_seconds * 3000)
        for job in await self._db(self._table.due_webhooks, hold_ms):
            task = asyncio.create_task(self._deliver(job))
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)
        await self._background.pause(self._settings.poll_seconds)

    async def _deliver(self, job: Job) -> None:
        body = json.dumps(
            {
                "type": f"job.{job.state}",
                "timestamp": iso_time(job.finished_ms or job.created_ms),
                "data": {"id": job.id, "state": job.state},
            }
        ).encode()
        secret = self._signer.derived("webhook", job.client)
        again_ms = None
        try:
            await self._webhooks.deliver(job.request["webhook"], secret, job.id, body)
        except (WebhookFailed, ForbiddenAddress) as error:
            log.warning("the webhook of job %s: %s", job.id, error)
            wait_seconds = retry_after_seconds(job.webhook_attempts)
            if wait_seconds is not None and not getattr(error, "forever", False):
                again_ms = self._table.now_ms() + int(wait_seconds * 1000)
        await self._db(self._table.webhook_settled, job.id, again_ms=again_ms)
