"""Enhances one picture of a job, by the same path as a synchronous request."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from serving.enhance.admission import Admission
from serving.enhance.costs import CostModel
from serving.enhance.enhancer import Enhancer
from serving.enhance.pictures import (
    enhance_request_of,
    headers_of,
    inspect_upload,
    output_size,
    select_model,
)
from serving.enhance.request import StageObserver, StageTimer
from serving.enhance.transform import shrunk_side
from serving.jobs.rows import Job, JobPicture
from serving.jobs.runner import PictureResult
from serving.models.reload import Models
from serving.requests.body import Upload
from serving.requests.keys import KeyRing
from serving.requests.negotiation import MEDIA_TYPES
from serving.requests.options import Options
from serving.settings import Settings
from serving.telemetry.logs import request_id_now
from superres.model.tiling import plan

CLIENT = "jobs"  # for admission: all jobs count as one client


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPictureWork:
    """Enhances pictures of jobs; a `serving.jobs.runner.PictureWork`.

    A picture takes a slot and memory like a request, but reserves no compute time: background
    work yields to requests, so no request is refused because of it.
    """

    settings: Settings
    admission: Admission
    models: Models
    enhancer: Enhancer
    costs: CostModel
    reporter: StageObserver
    keys: KeyRing

    @asynccontextmanager
    async def __call__(
        self, job: Job, picture: JobPicture, data: bytes, progress: Callable[[int, int], None]
    ) -> AsyncIterator[PictureResult]:
        request_id_now.set(job.id)
        self.models.require_ready()
        stages = StageTimer(self.reporter)
        with ExitStack() as resources:
            admitted = resources.enter_context(self.admission.admit(CLIENT))
            admitted.reserve_bytes(len(data))
            received_picture = await inspect_upload(
                self,
                Upload(data=data, name=picture.name),
                Options.model_validate(job.request["options"]),
                accept=job.request["accept"],
                longest_seconds=self.settings.jobs.picture_seconds,
            )
            selected = await select_model(
                self, received_picture, job.client, admitted, resources, stages
            )
            model_version = selected.model_version
            output_options = received_picture.output_options(
                model_version.scale, self.settings.limits.max_output_pixels
            )
            admitted.reserve_output(
                *output_size(received_picture, output_options, model_version.scale),
                received_picture.format,
            )
            self.keys.charge_pixels(job.client, admitted.output_pixels)
            height, width = (
                shrunk_side(side, output_options.shrink)
                for side in (received_picture.height, received_picture.width)
            )
            tiles = len(plan(height, width, model_version.model.upscaler.geometry).boxes)
            enhance_request = enhance_request_of(
                received_picture,
                selected,
                output_options,
                client=job.client,
                progress=lambda share: progress(round(share * tiles), tiles),
                background=True,
            )
            answer = await self.enhancer.enhance(enhance_request, stages)
            async with aclosing(answer.chunks):
                headers = headers_of(answer, received_picture, selected, output_options)
                headers["Content-Type"] = MEDIA_TYPES[received_picture.format]
                yield PictureResult(headers=headers, chunks=answer.chunks)
