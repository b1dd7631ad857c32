"""Background upkeep of jobs: reclaims lost leases, deletes expired data, delivers webhooks."""

import asyncio
import json
import logging
import time

from serving.background import BackgroundTasks
from serving.errors import ForbiddenAddress
from serving.jobs.database import Database, Notifier
from serving.jobs.rows import Job, Lease, RemovedJobs
from serving.jobs.store import Store, blob_of
from serving.jobs.views import iso_time
from serving.jobs.webhooks import WebhookFailed, Webhooks, retry_after_seconds
from serving.requests.signing import Signer
from serving.setting_groups import JobSettings

log = logging.getLogger(__name__)

ORPHAN_SECONDS = 600.0  # a blob that no row names is deleted once it is unchanged for so long
POLL_SECONDS = 1.0  # longest pause between two checks of the heartbeats
MAX_BLOBS_PER_QUERY = 500
MAX_EXPIRED = 500  # rows deleted by one statement, which locks the table meanwhile


class Reaper:
    """Reclaims jobs, deletes expired and orphaned data, and delivers webhooks, periodically."""

    def __init__(
        self,
        database: Database,
        store: Store,
        signer: Signer,
        webhooks: Webhooks,
        *,
        new_jobs: Notifier,
        job_changes: Notifier,
        settings: JobSettings,
    ) -> None:
        self._db = database
        self._table = database.table
        self._store = store
        self._signer = signer
        self._webhooks = webhooks
        self._new_jobs = new_jobs
        self._job_changes = job_changes
        self._settings = settings
        self._background = BackgroundTasks(settings.poll_seconds)
        self._deliveries: set[asyncio.Task[None]] = set()
        self._last_heartbeats: dict[Lease, tuple[int, float]] = {}
        self._orphans: dict[str, tuple[str, float]] = {}  # change marker, and when first seen
        self.counts: dict[tuple[str, ...], float] = {}  # jobs of all replicas, by state

    def start(self) -> None:
        """Start the background tasks; called on the event loop."""
        self._background.start(self._reclaim_silent, self._sweep, self._deliver_due)

    async def stop(self) -> None:
        """Stop; a delivery in progress is cancelled and retried later."""
        await self._background.stop()
        for task in self._deliveries:
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)

    async def _reclaim_silent(self) -> None:
        """Reclaim jobs without a heartbeat for a whole lease, on this process's own clock."""
        now_seconds = time.monotonic()
        running = await self._db(self._table.running)
        queued = await self._db(self._table.count_queued)
        self.counts = {("queued",): queued, ("running",): len(running)}
        before, self._last_heartbeats = self._last_heartbeats, {}
        for lease, heartbeat in running:
            last = before.get(lease)
            since = last[1] if last is not None and last[0] == heartbeat else now_seconds
            self._last_heartbeats[lease] = (heartbeat, since)
            if now_seconds - since >= self._settings.lease_seconds and await self._db(
                self._table.reclaim, lease, heartbeat
            ):
                log.warning("job %s reclaimed: its replica sends no heartbeat", lease.job_id)
                self._new_jobs.notify()
                self._job_changes.notify(lease.job_id)
        await self._background.pause(min(POLL_SECONDS, self._settings.lease_seconds / 4))

    async def _sweep(self) -> None:
        """Delete expired jobs and uploads, and orphaned blobs."""
        while True:
            removed = await self._db(self._table.expire, MAX_EXPIRED)
            await self.remove(removed)
            if len(removed.job_ids) < MAX_EXPIRED and len(removed.blobs) < MAX_EXPIRED:
                break
        await self._sweep_orphans()
        await self._background.pause(self._settings.sweep_seconds)

    async def _sweep_orphans(self) -> None:
        """Delete blobs that no row names and that are unchanged for `ORPHAN_SECONDS`."""
        now_seconds = time.monotonic()
        change_markers = await self._store.change_markers()
        blobs = list({blob for name in change_markers if (blob := blob_of(name)) is not None})
        orphans: set[str] = set()
        for start in range(0, len(blobs), MAX_BLOBS_PER_QUERY):
            batch = blobs[start : start + MAX_BLOBS_PER_QUERY]
            orphans.update(await self._db(self._table.orphan_blobs, batch))
        before, self._orphans = self._orphans, {}
        for name in [name for name in change_markers if blob_of(name) in orphans]:
            marker, since = before.get(name, ("", 0.0))
            self._orphans[name] = (
                change_markers[name],
                since if marker == change_markers[name] else now_seconds,
            )
        expired = [
            name
            for name, (_, since) in self._orphans.items()
            if now_seconds - since > ORPHAN_SECONDS
        ]
        await self._store.delete(expired)

    async def remove(self, removed: RemovedJobs) -> None:
        """Delete the blobs of removed rows, and empty the write-ahead log."""
        if removed.blobs:
            await self._store.delete(removed.blobs)
        if removed.job_ids or removed.blobs:
            await self._db(self._table.truncate_wal)
        for job_id in removed.job_ids:
            self._job_changes.notify(job_id)

    async def _deliver_due(self) -> None:
        """Start every delivery that is due, concurrently."""
        lease_ms = int(self._settings.webhook_seconds * 3000)
        for job in await self._db(self._table.due_webhooks, lease_ms):
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
        secret = self._signer.derive_secret("webhook", job.client)
        retry_at_ms = None
        try:
            await self._webhooks.deliver(job.request["webhook"], secret, job.id, body)
        except (WebhookFailed, ForbiddenAddress) as error:
            log.warning("the webhook of job %s: %s", job.id, error)
            wait_seconds = retry_after_seconds(job.webhook_attempts)
            if wait_seconds is not None and not getattr(error, "permanent", False):
                retry_at_ms = self._table.now_ms() + int(wait_seconds * 1000)
        await self._db(self._table.webhook_settled, job.id, retry_at_ms=retry_at_ms)
