"""Opens the job services when they are first needed.

Nothing is opened before the first job or upload, or a restart over a folder with jobs: a server
that only gets synchronous requests writes no files.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from serving.background import BackgroundTasks
from serving.errors import NotReady
from serving.jobs.database import Notifier
from serving.jobs.runner import PictureWork
from serving.jobs.services import JobServices, build_job_services, has_jobs
from serving.jobs.store import Store
from serving.jobs.uploads import Uploads
from serving.jobs.webhooks import AddressGuard
from serving.setting_groups import JobSettings
from serving.threads import in_thread
from superres.common.errors import SharplineError

log = logging.getLogger(__name__)


class LazyJobServices:
    """The job services, opened once and closed at shutdown."""

    def __init__(
        self,
        settings: JobSettings,
        work: PictureWork,
        draining: Callable[[], bool],
        guard: AddressGuard,
    ) -> None:
        self._settings = settings
        self._draining = draining
        self._guard = guard
        self._new_jobs = Notifier()
        self._job_changes = Notifier()
        self._build = partial(
            build_job_services,
            settings,
            work=work,
            draining=draining,
            guard=guard,
            new_jobs=self._new_jobs,
            job_changes=self._job_changes,
        )
        self._lock = asyncio.Lock()
        self._services: JobServices | None = None
        self._opener = BackgroundTasks(settings.poll_seconds)
        self._deletions: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the services now if an earlier process may have left jobs."""
        if has_jobs(self._settings):
            self._opener.start(self._open_with_retries)

    async def stop(self) -> None:
        """Release running jobs; another replica, or the next process, continues them."""
        await self._opener.stop()
        if self._services is not None:
            await asyncio.gather(*self._deletions, return_exceptions=True)
            await self._services.runner.stop()
            await self._services.reaper.stop()
            await in_thread(self._services.database.table.close)

    def counts(self) -> dict[tuple[str, ...], float]:
        """Jobs by state, at most a moment old; empty before the services are opened."""
        return {} if self._services is None else self._services.reaper.counts

    async def store(self) -> Store:
        return (await self._open()).store

    async def uploads(self) -> Uploads:
        return (await self._open()).uploads

    async def _open_with_retries(self) -> None:
        """The database may be unavailable at start; synchronous requests are served meanwhile."""
        await self._open()
        await self._opener.stopping.wait()

    async def _open(self) -> JobServices:
        async with self._lock:
            if self._services is None:
                try:
                    self._services = await in_thread(
                        self._build, discard=lambda services: services.database.table.close()
                    )
                except (SharplineError, OSError, SQLAlchemyError) as error:
                    log.error("the job services cannot be opened: %s", error)
                    raise NotReady("jobs are not available; see the server's log") from None
                self._services.runner.start()
                self._services.reaper.start()
            return self._services
