"""What a job does with one picture: the synchronous way, in the background."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from serving.enhance.admission import Admission
from serving.enhance.costs import Costs
from serving.enhance.enhancer import Enhancer
from serving.enhance.pictures import answer_size, choose, headers_of, order_of, received
from serving.enhance.request import Stages, StageWatcher
from serving.enhance.transform import shrunk_side
from serving.jobs.rows import Job, JobPicture
from serving.jobs.runner import Made
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
class JobWork:
    """Answers pictures of jobs; a `serving.jobs.runner.Work`.

    A picture holds a place and its memory like a request, but no time: nobody is refused because
    of work that gives way.
    """

    settings: Settings
    admission: Admission
    models: Models
    enhancer: Enhancer
    costs: Costs
    reporter: StageWatcher
    keys: KeyRing

    @asynccontextmanager
    async def __call__(
        self, job: Job, picture: JobPicture, data: bytes, progress: Callable[[int, int], None]
    ) -> AsyncIterator[Made]:
        request_id_now.set(job.id)
        self.models.require_ready()
        stages = Stages(self.reporter)
        with ExitStack() as held:
            entry = held.enter_context(self.admission.enter(CLIENT))
            entry.hold_bytes(len(data))
            known = await received(
                self,
                Upload(data=data, name=picture.name),
                Options.model_validate(job.request["options"]),
                accept=job.request["accept"],
                longest_seconds=self.settings.jobs.picture_seconds,
            )
            chosen = await choose(self, known, job.client, entry, held, stages)
            offer = chosen.offer
            wish = known.wish(offer.scale, self.settings.limits.max_answer_pixels)
            entry.hold_answer(*answer_size(known, wish, offer.scale), known.format)
            self.keys.charge_pixels(job.client, entry.answer_pixels)
            height, width = (shrunk_side(side, wish.shrink) for side in (known.height, known.width))
            tiles = len(plan(height, width, offer.model.upscaler.geometry).boxes)
            order = order_of(
                known,
                chosen,
                wish,
                client=job.client,
                progress=lambda share: progress(round(share * tiles), tiles),
                background=True,
            )
            answer = await self.enhancer.enhance(order, stages)
            async with aclosing(answer.pieces):
                headers = headers_of(answer, known, chosen, wish)
                headers["Content-Type"] = MEDIA_TYPES[known.format]
                yield Made(headers=headers, pieces=answer.pieces)
