"""/v1/jobs: asynchronous jobs."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import BadOptions
from serving.http.access import caller_of, client_of, require_key
from serving.http.response import ClosingResponse
from serving.http.routes.documents import (
    BINARY,
    form_content,
    inline_schema,
    picture_body,
    problems,
)
from serving.jobs.intake import BodyLimits, store_inputs
from serving.jobs.jobs import JobSubmission
from serving.jobs.rows import Input, Job
from serving.jobs.views import JobView, Receipt
from serving.requests.json_body import read_json
from serving.requests.keys import MAX_PRIORITY
from serving.requests.options import Options
from serving.services import services_of

REQUIRE_KEY = [Depends(require_key)]
router = APIRouter(tags=["jobs"])

JOB_ID = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="the job's `id`")]
MAX_WAIT_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 15.0
IDEMPOTENCY_KEY = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="a repeated request with the same key returns the same job",
    ),
]

PREFER = Annotated[
    str | None, Header(max_length=1000, description="`respond-async` submits the request as a job")
]


class JobOptions(Options):
    """Options of a job: those of /v1/enhance and three more."""

    priority: int = Field(
        5, ge=0, le=MAX_PRIORITY, description="9 is processed first; a key may cap it"
    )
    webhook: str | None = Field(
        None, max_length=2000, description="public URL to call when the job is finished"
    )
    delete_on_fetch: bool = Field(
        False, description="delete each picture once its result was fetched completely"
    )


class InputRef(BaseModel):
    """A reference to an upload."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upload: str = Field(pattern=r"^[0-9a-f]{32}$", description="id from POST /v1/uploads")
    name: str = Field("", max_length=255, description="file name; the result's is derived from it")


class JobRequest(BaseModel):
    """A job over uploads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: list[InputRef] = Field(min_length=1)
    options: JobOptions = JobOptions()  # pyright: ignore[reportCallIssue]  # all have defaults


def wants_job(prefer: str | None) -> bool:
    """Whether a Prefer header asks for an asynchronous response (RFC 7240)."""
    preferences = (prefer or "").split(",")
    return "respond-async" in (each.partition(";")[0].strip().lower() for each in preferences)


def job_responses() -> dict[int | str, dict[str, Any]]:
    return {
        202: {
            "model": JobView,
            "description": "The queued job; jobs run with lower priority than requests",
            "headers": {"Location": {"description": "the job's URL", "schema": {"type": "string"}}},
        }
    }


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Submit a job",
    dependencies=REQUIRE_KEY,
    responses={
        **job_responses(),
        **problems(400, 401, 403, 404, 408, 410, 413, 415, 421, 422, 429, 500, 503, 507),
    },
    openapi_extra=picture_body(
        {
            **form_content({"type": "array", "items": BINARY, "minItems": 1}, JobOptions),
            "application/json": {"schema": inline_schema(JobRequest)},
        }
    ),
)
async def submit(
    request: Request,
    options: Annotated[JobOptions, Query()],
    idempotency_key: IDEMPOTENCY_KEY = None,
) -> Response:
    """One picture as the body, several as form fields `file`, or uploads by id in JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        job = await _submit_uploads(request, options, idempotency_key)
    else:
        job = await submit_body(request, options, idempotency_key)
    return await accepted(request, job)


async def submit_body(
    request: Request,
    options: JobOptions,
    idempotency_key: str | None,
    max_pictures: int | None = None,
) -> Job:
    """Submit the pictures in a request's body, at most `max_pictures`."""
    services = services_of(request)
    services.pictures.admission.require_open()
    settings = services.pictures.settings
    limits = BodyLimits(
        max_bytes=settings.limits.max_bytes,
        max_pictures=max_pictures or settings.jobs.max_pictures,
        seconds=settings.limits.body_seconds,
    )
    store = await services.jobs.store()
    inputs = await store_inputs(request, store, limits)
    try:
        options = options.with_form_fields(inputs.fields, request.query_params.keys())
    except BadOptions:
        await store.delete(inputs.blobs)
        raise
    return await services.jobs.submit(
        _submission(request, options, idempotency_key),
        [Input(blob=each.blob, name=each.name) for each in inputs.pictures],
        [each.written.sha256 for each in inputs.pictures],
    )


async def accepted(request: Request, job: Job) -> Response:
    """The 202 response with the job and its URL."""
    view = await services_of(request).jobs.view(job)
    return JSONResponse(view.model_dump(exclude_none=True), 202, {"Location": f"/v1/jobs/{job.id}"})


async def _submit_uploads(
    request: Request, options: JobOptions, idempotency_key: str | None
) -> Job:
    services = services_of(request)
    settings = services.pictures.settings
    services.pictures.admission.require_open()
    job_request = await read_json(request, JobRequest, settings.limits.body_seconds)
    max_pictures = settings.jobs.max_pictures
    if len(job_request.inputs) > max_pictures:
        raise BadOptions(f"a job takes at most {max_pictures} pictures")
    fields = job_request.options.model_dump(exclude_unset=True)
    options = options.with_form_fields(fields, request.query_params.keys())
    return await services.jobs.submit(
        _submission(request, options, idempotency_key),
        [Input(upload=each.upload, name=each.name) for each in job_request.inputs],
        [each.upload for each in job_request.inputs],
    )


def _submission(
    request: Request, options: JobOptions, idempotency_key: str | None
) -> JobSubmission:
    job_fields = set(JobOptions.model_fields) - set(Options.model_fields)
    key = caller_of(request).key
    return JobSubmission(
        client=client_of(request),
        options=Options.model_validate(options.model_dump(exclude=job_fields)),
        accept=_picture_ranges(request.headers.get("accept", "")),
        idempotency_key=idempotency_key,
        webhook=options.webhook,
        priority=min(options.priority, MAX_PRIORITY if key is None else key.max_priority),
        max_queued=None if key is None else key.max_queued_jobs,
        delete_on_fetch=options.delete_on_fetch,
    )


def _picture_ranges(accept: str) -> str:
    """The image/* ranges of Accept; the others are for the job's own JSON."""
    return ",".join(part for part in accept.split(",") if part.strip().startswith("image/"))


@router.get(
    "/v1/jobs/{job_id}",
    summary="A job's state",
    dependencies=REQUIRE_KEY,
    response_model_exclude_none=True,
    responses=problems(401, 404, 421, 422, 429, 500, 503),
)
async def show(
    request: Request,
    job_id: JOB_ID,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            allow_inf_nan=False,
            description="wait up to this many seconds for the job to finish",
        ),
    ] = 0.0,
) -> JobView:
    """The job's queue position, progress, results and problems."""
    jobs = services_of(request).jobs
    job = await jobs.find(job_id, owner_of(request))
    if wait:
        job = await jobs.wait(job, wait)
    return await jobs.view(job)


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="A job's progress as server-sent events",
    dependencies=REQUIRE_KEY,
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events named `job`, each with the job as JSON; the last one when the "
            "job is finished",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(401, 404, 421, 422, 429, 500, 503),
    },
)
async def events(request: Request, job_id: JOB_ID) -> ClosingResponse:
    """Ends when the job is finished, or when the server shuts down: reconnect then."""
    jobs = services_of(request).jobs
    job = await jobs.find(job_id, owner_of(request))
    return ClosingResponse(
        _stream(jobs.watch(job)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(views: AsyncGenerator[JobView]) -> AsyncGenerator[str]:
    """An event per change, and a comment when idle, so that proxies keep the connection."""
    last, quiet_since = "", asyncio.get_running_loop().time()
    async with aclosing(views):
        async for view in views:
            text = view.model_dump_json(exclude_none=True, exclude={"pictures"})
            now_seconds = asyncio.get_running_loop().time()
            if text != last:
                last, quiet_since = text, now_seconds
                yield f"event: job\ndata: {text}\n\n"
            elif now_seconds - quiet_since > KEEP_ALIVE_SECONDS:
                quiet_since = now_seconds
                yield ": keep-alive\n\n"


@router.delete(
    "/v1/jobs/{job_id}",
    summary="Cancel or delete a job",
    dependencies=REQUIRE_KEY,
    responses=problems(401, 404, 421, 422, 429, 500, 503),
)
async def erase(request: Request, job_id: JOB_ID) -> Receipt:
    """Deletes all data of the job and returns a signed receipt."""
    jobs = services_of(request).jobs
    return await jobs.erase(await jobs.find(job_id, owner_of(request)))


def owner_of(request: Request) -> str | None:
    """The client whose jobs are visible; None without keys, when the job's id is the secret."""
    return client_of(request) if services_of(request).pictures.keys.required else None
