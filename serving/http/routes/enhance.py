"""POST /v1/enhance: one picture in, one larger picture out."""

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response

from serving.enhance.admission import AdmittedRequest
from serving.enhance.pictures import (
    ReceivedPicture,
    answer_size,
    choose,
    enhance_request_of,
    headers_of,
    received,
    work_pixels,
)
from serving.enhance.request import StageTimer
from serving.errors import ClientGone
from serving.http.access import caller_of, client_of, require_key
from serving.http.response import PictureResponse
from serving.http.routes.documents import picture_answers, picture_body, problems
from serving.http.routes.jobs import (
    IDEMPOTENCY_KEY,
    PREFER,
    JobOptions,
    accepted,
    from_body,
    job_answers,
    wants_job,
)
from serving.requests.body import read_body, unpack
from serving.requests.negotiation import MEDIA_TYPES
from serving.requests.options import Options
from serving.services import services_of

router = APIRouter(tags=["pictures"], dependencies=[Depends(require_key)])

Result = TypeVar("Result")


@router.post(
    "/v1/enhance",
    summary="Enlarge a picture",
    response_class=Response,
    responses={
        **picture_answers(),
        **job_answers(),
        **problems(400, 401, 403, 404, 406, 408, 413, 415, 421, 422, 429, 500, 503, 504, 507),
    },
    openapi_extra=picture_body(),
)
async def enhance(
    request: Request,
    options: Annotated[Options, Query()],
    prefer: PREFER = None,
    idempotency_key: IDEMPOTENCY_KEY = None,
) -> Response:
    """Send a picture's bytes as the body, or as the field `file` of a multipart form.

    `Prefer: respond-async` makes a job of it, which answers at once and is worked on later.
    """
    services = services_of(request)
    if wants_job(prefer):
        wanted = JobOptions.model_validate(options.model_dump(exclude_unset=True))
        return await accepted(request, await from_body(request, wanted, idempotency_key, most=1))
    services.models.require_ready()
    stages = StageTimer(services.reporter)
    client = client_of(request)
    with ExitStack() as held:
        admitted = held.enter_context(services.admission.admit(client))
        picture = await _receive(request, options, admitted, stages)
        selected = await choose(services, picture, client, admitted, held, stages)
        request.state.model = selected.model_version.name
        output_options = picture.output_options(
            selected.model_version.scale, services.settings.limits.max_answer_pixels
        )
        admitted.reserve_answer(
            *answer_size(picture, output_options, selected.model_version.scale), picture.format
        )
        pixels = work_pixels(picture, output_options, selected.model_version)
        admitted.reserve_work(selected.model_version.name, pixels, picture.deadline_seconds)
        caller_of(request).charge_pixels(admitted.answer_pixels)
        enhance_request = enhance_request_of(
            picture, selected, output_options, client=client, progress=admitted.work_done
        )
        answer = await unless_gone(request, services.enhancer.enhance(enhance_request, stages))
        return PictureResponse(
            answer,
            held.pop_all(),  # the place and the model are held until the last byte is sent
            services.reporter,
            media_type=MEDIA_TYPES[picture.format],
            headers=headers_of(answer, picture, selected, output_options),
            taking_seconds=services.settings.limits.body_seconds,
        )


async def _receive(
    request: Request, options: Options, admitted: AdmittedRequest, stages: StageTimer
) -> ReceivedPicture:
    """The body, what it is and what is asked of it."""
    services = services_of(request)
    with stages("read"):
        body = await read_body(request, admitted, services.settings.limits.body_seconds)
        upload = await services.enhancer.in_light_worker(
            lambda: unpack(request.headers.get("content-type", ""), body)
        )
    return await received(
        services,
        upload,
        options.or_from(upload.fields, request.query_params.keys()),
        accept=request.headers.get("accept", ""),
        longest_seconds=services.settings.limits.deadline_seconds,
    )


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is given up when the client closes the connection."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client went away before its answer was ready")
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
