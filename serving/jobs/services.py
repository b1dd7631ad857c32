"""Builds the job services from the settings."""

from collections.abc import Callable
from dataclasses import dataclass

from serving.jobs.database import Database, Notifier
from serving.jobs.reaper import Reaper
from serving.jobs.runner import PictureWork, Runner, RunnerParts
from serving.jobs.store import FolderStore, Store
from serving.jobs.table import JobTable
from serving.jobs.uploads import Uploads
from serving.jobs.webhooks import AddressGuard, GuardedNetwork, Webhooks
from serving.requests.signing import Signer, load_signer
from serving.setting_groups import JobSettings
from superres.common.errors import SharplineError

DATABASE = "jobs.db"
BLOBS = "pictures"
KEY = "signing.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobServices:
    """The job services; the runner and the reaper are not started yet."""

    database: Database
    store: Store
    signer: Signer
    uploads: Uploads
    runner: Runner
    reaper: Reaper


def has_jobs(settings: JobSettings) -> bool:
    """Whether an earlier process may have left jobs."""
    return settings.database is not None or (settings.folder / DATABASE).exists()


def build_job_services(
    settings: JobSettings,
    *,
    work: PictureWork,
    draining: Callable[[], bool],
    guard: AddressGuard,
    new_jobs: Notifier,
    job_changes: Notifier,
) -> JobServices:
    """Open the database and the store. Raises SharplineError, OSError or SQLAlchemyError."""
    if None in (settings.bucket, settings.database, settings.signing_key):
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # for this user only
    store = _store_of(settings)  # first, because it marks the folder as clients' data
    signer = load_signer(settings.signing_key or settings.folder / KEY)
    url = settings.database or f"sqlite:///{(settings.folder / DATABASE).absolute()}"
    database = Database(JobTable(url))
    runner = Runner(
        RunnerParts(
            database=database,
            store=store,
            work=work,
            new_jobs=new_jobs,
            job_changes=job_changes,
            settings=settings,
            draining=draining,
        )
    )
    reaper = Reaper(
        database,
        store,
        signer,
        Webhooks(GuardedNetwork(guard), settings.webhook_seconds),
        new_jobs=new_jobs,
        job_changes=job_changes,
        settings=settings,
    )
    return JobServices(
        database=database,
        store=store,
        signer=signer,
        uploads=Uploads(database, store, signer, settings),
        runner=runner,
        reaper=reaper,
    )


def _store_of(settings: JobSettings) -> Store:
    if settings.bucket is None:
        return FolderStore(settings.folder / BLOBS)
    try:
        from serving.jobs.bucket import BucketStore
    except ImportError as error:
        raise SharplineError("a bucket needs boto3: pip install 'sharpline[s3]'") from error
    return BucketStore(settings.bucket, settings.bucket_endpoint, direct=settings.bucket_direct)
