"""POST /v1/enhance: one picture in, one larger picture out."""

from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from serving.enhance.pictures import ReceivedPicture
from serving.enhance.steps import PictureServices, PictureSteps
from serving.http.access import caller_of, client_of, require_key
from serving.http.disconnect import cancel_on_disconnect
from serving.http.response import PictureResponse
from serving.http.routes.documents import (
    BINARY,
    form_content,
    picture_body,
    picture_responses,
    problems,
)
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


@router.post(
    "/v1/enhance",
    summary="Enlarge a picture",
    response_class=Response,
    responses={
        **picture_responses(),
        **job_responses(),
        **problems(400, 401, 403, 404, 406, 408, 413, 415, 421, 422, 429, 500, 503, 504, 507),
    },
    openapi_extra=picture_body(form_content(BINARY, Options)),
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
    if wants_job(prefer):
        job_options = JobOptions.model_validate(options.model_dump(exclude_unset=True))
        job = await submit_body(request, job_options, idempotency_key, max_pictures=1)
        return await accepted(request, job)
    pictures = services_of(request).pictures
    with ExitStack() as resources:
        steps = PictureSteps(pictures, resources, client_of(request))
        received = await _receive(request, options, pictures, steps)
        selected = await steps.select_model(received)
        request.state.model = selected.model_version.name
        planned = steps.reserve(received, selected, caller_of(request).charge_pixels)
        answer = await cancel_on_disconnect(
            request.receive, steps.enhance(planned), "result was ready"
        )
        return PictureResponse(
            answer,
            resources.pop_all(),  # the slot and the model are released after the last byte
            pictures.reporter,
            media_type=MEDIA_TYPES[received.format],
            headers=planned.headers(answer),
            send_timeout_seconds=pictures.settings.limits.body_seconds,
        )


async def _receive(
    request: Request, options: Options, pictures: PictureServices, steps: PictureSteps
) -> ReceivedPicture:
    """Read the body and its options, and inspect the picture."""
    limits = pictures.settings.limits
    with steps.stages("read"):
        body = await read_body(request, steps.admitted, limits.body_seconds)
        upload = await pictures.enhancer.in_light_worker(
            lambda: unpack(request.headers.get("content-type", ""), body)
        )
    return await steps.inspect_upload(
        upload,
        options.with_form_fields(upload.fields, request.query_params.keys()),
        accept=request.headers.get("accept", ""),
        longest_seconds=limits.deadline_seconds,
    )
