"""Enhances one picture of a job, by the same steps as a synchronous request."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from serving.enhance.steps import PictureServices, PictureSteps
from serving.jobs.rows import Job, JobPicture
from serving.jobs.runner import PictureResult
from serving.requests.body import Upload
from serving.requests.negotiation import MEDIA_TYPES
from serving.requests.options import Options
from serving.telemetry.logs import request_id_now


@dataclass(frozen=True, slots=True)
class JobPictureWork:
    """Enhances pictures of jobs in the background; a `serving.jobs.runner.PictureWork`."""

    services: PictureServices

    @asynccontextmanager
    async def __call__(
        self, job: Job, picture: JobPicture, data: bytes, progress: Callable[[int, int], None]
    ) -> AsyncIterator[PictureResult]:
        request_id_now.set(job.id)
        services = self.services
        with ExitStack() as resources:
            steps = PictureSteps(services, resources, job.client, background=True)
            steps.admitted.reserve_bytes(len(data))
            received = await steps.inspect_upload(
                Upload(data=data, name=picture.name),
                Options.model_validate(job.request["options"]),
                accept=job.request["accept"],
                longest_seconds=services.settings.jobs.picture_seconds,
            )
            selected = await steps.select_model(received)
            planned = steps.reserve(
                received, selected, partial(services.keys.charge_pixels, job.client)
            )
            tiles = planned.tiles
            answer = await steps.enhance(
                planned, lambda share: progress(round(share * tiles), tiles)
            )
            async with aclosing(answer.chunks):
                headers = planned.headers(answer)
                headers["Content-Type"] = MEDIA_TYPES[received.format]
                yield PictureResult(headers=headers, chunks=answer.chunks)
