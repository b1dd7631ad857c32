"""What there is of jobs once they are in use, put together as the settings say."""

from collections.abc import Callable
from dataclasses import dataclass

from serving.jobs.database import Changes, Database
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
    """The parts; the runner and the keeper wait to be started."""

    database: Database
    store: Store
    signer: Signer
    uploads: Uploads
    runner: Runner
    reaper: Reaper


def was_used(settings: JobSettings) -> bool:
    """Whether jobs may be there from before."""
    return settings.database is not None or (settings.folder / DATABASE).exists()


def build_job_services(
    settings: JobSettings,
    *,
    work: PictureWork,
    draining: Callable[[], bool],
    guard: AddressGuard,
    arrivals: Changes,
    changes: Changes,
) -> JobServices:
    """Open the table and the store. Raises SharplineError, OSError or SQLAlchemyError."""
    if None in (settings.bucket, settings.database, settings.signing_key):
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # no other user looks in
    store = _store_of(settings)  # a folder is marked as clients' before anything else is in it
    signer = load_signer(settings.signing_key or settings.folder / KEY)
    url = settings.database or f"sqlite:///{(settings.folder / DATABASE).absolute()}"
    database = Database(JobTable(url))
    runner = Runner(
        RunnerParts(
            database=database,
            store=store,
            work=work,
            arrivals=arrivals,
            changes=changes,
            settings=settings,
            draining=draining,
        )
    )
    reaper = Reaper(
        database,
        store,
        signer,
        Webhooks(GuardedNetwork(guard), settings.webhook_seconds),
        arrivals=arrivals,
        changes=changes,
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
