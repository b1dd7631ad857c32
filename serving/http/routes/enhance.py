"""POST /v1/enhance: one picture in, one larger picture out."""

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response

from serving.enhance.admission import AdmittedRequest
from serving.enhance.pictures import (
    ReceivedPicture,
    enhance_request_of,
    headers_of,
    inspect_upload,
    output_size,
    select_model,
    work_pixels,
)
from serving.enhance.request import StageTimer
from serving.errors import ClientGone
from serving.http.access import caller_of, client_of, require_key
from serving.http.response import PictureResponse
from serving.http.routes.documents import picture_body, picture_responses, problems
from serving.http.routes.jobs import (
    IDEMPOTENCY_KEY,
    PREFER,
    JobOptions,
    accepted,
    job_responses,
    submit_body,
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
        **picture_responses(),
        **job_responses(),
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

    `Prefer: respond-async` submits it as a job: the response is immediate, the result comes later.
    """
    services = services_of(request)
    if wants_job(prefer):
        job_options = JobOptions.model_validate(options.model_dump(exclude_unset=True))
        job = await submit_body(request, job_options, idempotency_key, max_pictures=1)
        return await accepted(request, job)
    services.models.require_ready()
    stages = StageTimer(services.reporter)
    client = client_of(request)
    with ExitStack() as resources:
        admitted = resources.enter_context(services.admission.admit(client))
        picture = await _receive(request, options, admitted, stages)
        selected = await select_model(services, picture, client, admitted, resources, stages)
        request.state.model = selected.model_version.name
        output_options = picture.output_options(
            selected.model_version.scale, services.settings.limits.max_output_pixels
        )
        admitted.reserve_output(
            *output_size(picture, output_options, selected.model_version.scale), picture.format
        )
        pixels = work_pixels(picture, output_options, selected.model_version)
        admitted.reserve_work(selected.model_version.name, pixels, picture.deadline_seconds)
        caller_of(request).charge_pixels(admitted.output_pixels)
        enhance_request = enhance_request_of(
            picture, selected, output_options, client=client, progress=admitted.work_done
        )
        answer = await cancel_on_disconnect(
            request, services.enhancer.enhance(enhance_request, stages)
        )
        return PictureResponse(
            answer,
            resources.pop_all(),  # the slot and the model are released after the last byte
            services.reporter,
            media_type=MEDIA_TYPES[picture.format],
            headers=headers_of(answer, picture, selected, output_options),
            send_timeout_seconds=services.settings.limits.body_seconds,
        )


async def _receive(
    request: Request, options: Options, admitted: AdmittedRequest, stages: StageTimer
) -> ReceivedPicture:
    """Read the body and its options, and inspect the picture."""
    services = services_of(request)
    with stages("read"):
        body = await read_body(request, admitted, services.settings.limits.body_seconds)
        upload = await services.enhancer.in_light_worker(
            lambda: unpack(request.headers.get("content-type", ""), body)
        )
    return await inspect_upload(
        services,
        upload,
        options.with_form_fields(upload.fields, request.query_params.keys()),
        accept=request.headers.get("accept", ""),
        longest_seconds=services.settings.limits.deadline_seconds,
    )


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client closes the connection."""
    working = asyncio.create_task(work)
    disconnected = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client disconnected before its result was ready")
        return working.result()
    finally:
        for task in (working, disconnected):
            task.cancel()
        await asyncio.gather(working, disconnected, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
