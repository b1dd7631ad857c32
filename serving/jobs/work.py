"""What a job does with one picture: the synchronous way, in the background."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from serving.enhance.admission import Admission
from serving.enhance.costs import CostModel
from serving.enhance.enhancer import Enhancer
from serving.enhance.pictures import answer_size, choose, enhance_request_of, headers_of, received
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

CLIENT = "jobs"  # in admission: their places and memory are counted apart from their clients'


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPictureWork:
    """Answers pictures of jobs; a `serving.jobs.runner.PictureWork`.

    A picture holds a place and its memory like a request, but no time: nobody is refused because
    of work that gives way.
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
        with ExitStack() as held:
            admitted = held.enter_context(self.admission.admit(CLIENT))
            admitted.reserve_bytes(len(data))
            known = await received(
                self,
                Upload(data=data, name=picture.name),
                Options.model_validate(job.request["options"]),
                accept=job.request["accept"],
                longest_seconds=self.settings.jobs.picture_seconds,
            )
            selected = await choose(self, known, job.client, admitted, held, stages)
            model_version = selected.model_version
            output_options = known.output_options(
                model_version.scale, self.settings.limits.max_answer_pixels
            )
            admitted.reserve_answer(
                *answer_size(known, output_options, model_version.scale), known.format
            )
            self.keys.charge_pixels(job.client, admitted.answer_pixels)
            height, width = (
                shrunk_side(side, output_options.shrink) for side in (known.height, known.width)
            )
            tiles = len(plan(height, width, model_version.model.upscaler.geometry).boxes)
            enhance_request = enhance_request_of(
                known,
                selected,
                output_options,
                client=job.client,
                progress=lambda share: progress(round(share * tiles), tiles),
                background=True,
            )
            answer = await self.enhancer.enhance(enhance_request, stages)
            async with aclosing(answer.chunks):
                headers = headers_of(answer, known, selected, output_options)
                headers["Content-Type"] = MEDIA_TYPES[known.format]
                yield PictureResult(headers=headers, chunks=answer.chunks)
