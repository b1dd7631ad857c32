"""The parts of jobs, opened when they are first needed.

Nothing is opened before the first job, upload, or restart over a folder that has jobs: a server
that is only asked to enhance writes nowhere.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from serving.background import BackgroundTasks
from serving.errors import NotReady
from serving.jobs.database import Changes
from serving.jobs.runner import PictureWork
from serving.jobs.services import JobServices, build_job_services, was_used
from serving.jobs.store import Store
from serving.jobs.uploads import Uploads
from serving.jobs.webhooks import AddressGuard
from serving.setting_groups import JobSettings
from serving.threads import in_thread
from superres.common.errors import SharplineError

log = logging.getLogger(__name__)


class LazyJobServices:
    """The table, the store, the runner and the rest, opened once and closed at the end."""

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
        self._arrivals = Changes()
        self._changes = Changes()
        self._build = partial(
            build_job_services,
            settings,
            work=work,
            draining=draining,
            guard=guard,
            arrivals=self._arrivals,
            changes=self._changes,
        )
        self._opening = asyncio.Lock()
        self._opened: JobServices | None = None
        self._opener = BackgroundTasks(settings.poll_seconds)
        self._dropping: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Go on with what an earlier process has left, if there is anything."""
        if was_used(self._settings):
            self._opener.start(self._open_at_last)

    async def stop(self) -> None:
        """Give back what is worked on; another replica, or the next process, goes on with it."""
        await self._opener.stop()
        if self._opened is not None:
            await asyncio.gather(*self._dropping, return_exceptions=True)
            await self._opened.runner.stop()
            await self._opened.reaper.stop()
            await in_thread(self._opened.database.table.close)

    def counts(self) -> dict[tuple[str, ...], float]:
        """Jobs by state, as they were a moment ago; none where there are no jobs."""
        return {} if self._opened is None else self._opened.reaper.counts

    async def store(self) -> Store:
        return (await self._open()).store

    async def uploads(self) -> Uploads:
        return (await self._open()).uploads

    async def _open_at_last(self) -> None:
        """Jobs wait in a table that may be away for a while; pictures are served meanwhile."""
        await self._open()
        await self._opener.leaving.wait()

    async def _open(self) -> JobServices:
        async with self._opening:
            if self._opened is None:
                try:
                    self._opened = await in_thread(
                        self._build, discard=lambda services: services.database.table.close()
                    )
                except (SharplineError, OSError, SQLAlchemyError) as error:
                    log.error("jobs cannot be kept: %s", error)
                    raise NotReady("this server has no place for jobs; its log says why") from None
                self._opened.runner.start()
                self._opened.reaper.start()
            return self._opened
