"""A job as its client sees it: state, progress, signed URLs, receipt."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.jobs.rows import Job, JobPicture, JobProgress
from serving.problems import Problem
from serving.requests.keys import MAX_PRIORITY
from serving.requests.signing import Signer

PictureState = Literal["waiting", "done", "failed", "fetched"]


class Progress(BaseModel):
    """A job's progress; tiles are those of the picture being processed."""

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
    state: PictureState
    bytes: int | None = None
    result: str | None = Field(None, description="signed URL; needs no key, and expires")
    problem: Problem | None = None


class Receipt(BaseModel):
    """Signed proof of a deletion; `POST /v1/receipts/verify` checks it."""

    model_config = ConfigDict(extra="forbid", strict=True)

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
    priority: int
    created: str
    finished: str | None = None
    expires: str
    queue_position: int | None = Field(
        None, description="position in the queue, from 1; counted up to 1000"
    )
    progress: Progress
    pictures: list[PictureView] = []
    problem: Problem | None = None
    receipt: Receipt | None = None
    webhook_secret: str | None = Field(
        None, description="checks the webhook's signature (Standard Webhooks)"
    )


def view_of(
    job: Job,
    progress: JobProgress,
    *,
    tiles: tuple[int, int],
    webhook_secret: str | None,
    signer: Signer,
) -> JobView:
    """The job with its progress; `tiles` are the current picture's finished and all tiles."""
    return JobView(
        id=job.id,
        state=job.state,
        priority=MAX_PRIORITY - job.rank,
        created=iso_time(job.created_ms),
        finished=None if job.finished_ms is None else iso_time(job.finished_ms),
        expires=iso_time(job.expires_ms),
        queue_position=progress.queue_position,
        progress=Progress(
            pictures_done=progress.finished,
            pictures_total=progress.total,
            tiles_done=tiles[0],
            tiles_total=tiles[1],
        ),
        pictures=[_picture_view(signer, job, each) for each in progress.pictures],
        problem=None if job.problem is None else Problem(**job.problem),
        receipt=None if job.receipt is None else Receipt(**job.receipt),
        webhook_secret=webhook_secret,
    )


def iso_time(ms: int) -> str:
    """Milliseconds of Unix time in ISO 8601."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def _picture_view(signer: Signer, job: Job, picture: JobPicture) -> PictureView:
    state = _state_of(picture)
    url = None
    if state == "done":
        expires_ms = job.expires_ms
        signature = signer.sign("result", f"{job.id}:{picture.n}:{expires_ms}")
        url = f"/v1/jobs/{job.id}/result?n={picture.n}&expires={expires_ms}&signature={signature}"
    return PictureView(
        n=picture.n,
        name=picture.name,
        state=state,
        bytes=picture.result_bytes,
        result=url,
        problem=None if picture.problem is None else Problem(**picture.problem),
    )


def _state_of(picture: JobPicture) -> PictureState:
    if picture.problem is not None:
        return "failed"
    if picture.result_blob is not None:
        return "done"
    return "waiting" if picture.result_bytes is None else "fetched"
