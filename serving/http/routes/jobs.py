"""/v1/jobs: pictures handed over now and fetched later."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import BadOptions, SlowBody
from serving.http.access import caller_of, client_of, require_key
from serving.http.response import ClosingResponse
from serving.http.routes.documents import BINARY, INPUT_TYPES, problems
from serving.jobs.intake import BodyLimits, body_of, limited, store_inputs
from serving.jobs.jobs import JobSubmission
from serving.jobs.rows import Input, Job
from serving.jobs.views import JobView, Receipt
from serving.requests.body import FILE_FIELD
from serving.requests.keys import HIGHEST_PRIORITY
from serving.requests.options import Options, describe
from serving.services import services_of

KEYED = [Depends(require_key)]
router = APIRouter(tags=["jobs"])

JOB_ID = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="as the job's answer names it")]
MAX_JSON_BYTES = 1 << 20
LONGEST_WAIT_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 15.0
IDEMPOTENCY_KEY = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="the same key with the same request is the same job",
    ),
]

PREFER = Annotated[
    str | None, Header(max_length=1000, description="`respond-async` makes a job of the request")
]


class JobOptions(Options):
    """What can be asked of a job, beside the options of /v1/enhance."""

    priority: int = Field(
        5, ge=0, le=HIGHEST_PRIORITY, description="9 is worked on first; a key may be bound to less"
    )
    webhook: str | None = Field(
        None, max_length=2000, description="public address that is told when the job is over"
    )
    delete_on_fetch: bool = Field(
        False, description="delete each picture once its result was fetched whole"
    )


class InputRef(BaseModel):
    """A picture that was uploaded before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upload: str = Field(pattern=r"^[0-9a-f]{32}$", description="id that POST /v1/uploads answered")
    name: str = Field("", max_length=255, description="file name, for the result's")


class JobRequest(BaseModel):
    """A job over uploads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: list[InputRef] = Field(min_length=1)
    options: JobOptions = JobOptions()  # pyright: ignore[reportCallIssue]  # all have defaults


def wants_job(prefer: str | None) -> bool:
    """Whether a Prefer header asks for an answer later (RFC 7240)."""
    options = (
        output_options.partition(";")[0].strip().lower()
        for output_options in (prefer or "").split(",")
    )
    return "respond-async" in options


def job_answers() -> dict[int | str, dict[str, Any]]:
    return {
        202: {
            "model": JobView,
            "description": "The job, which is worked on beneath what clients wait for",
            "headers": {
                "Location": {
                    "description": "where the job is asked for",
                    "schema": {"type": "string"},
                }
            },
        }
    }


def _body() -> dict[str, Any]:
    form = {
        "type": "object",
        "required": [FILE_FIELD],
        "properties": {
            FILE_FIELD: {"type": "array", "items": BINARY, "minItems": 1},
            **JobOptions.model_json_schema()["properties"],
        },
    }
    content: dict[str, Any] = {media_type: {"schema": BINARY} for media_type in INPUT_TYPES}
    content["multipart/form-data"] = {"schema": form}
    content["application/json"] = {"schema": {"$ref": "#/components/schemas/JobRequest"}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Hand pictures over and fetch the answers later",
    dependencies=KEYED,
    responses={
        **job_answers(),
        **problems(400, 401, 403, 404, 408, 410, 413, 415, 421, 422, 429, 500, 503, 507),
    },
    openapi_extra=_body(),
)
async def submit(
    request: Request,
    options: Annotated[JobOptions, Query()],
    idempotency_key: IDEMPOTENCY_KEY = None,
) -> Response:
    """One picture as the body, many as fields `file` of a form, or uploads named in JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        job = await _from_uploads(request, options, idempotency_key)
    else:
        job = await from_body(request, options, idempotency_key)
    return await accepted(request, job)


async def from_body(
    request: Request, options: JobOptions, idempotency_key: str | None, most: int | None = None
) -> Job:
    """A job over the pictures in a request's body, at most so many."""
    services = services_of(request)
    services.admission.require_open()
    settings = services.settings
    bounds = BodyLimits(
        max_bytes=settings.limits.max_bytes,
        max_pictures=most or settings.jobs.max_pictures,
        seconds=settings.limits.body_seconds,
    )
    store = await services.jobs.store()
    arrivals = await store_inputs(request, store, bounds)
    try:
        options = options.or_from(arrivals.fields, request.query_params.keys())
    except BadOptions:
        await store.delete(arrivals.blobs)
        raise
    return await services.jobs.submit(
        _submission(request, options, idempotency_key),
        [Input(blob=each.blob, name=each.name) for each in arrivals.pictures],
        [each.written.sha256 for each in arrivals.pictures],
    )


async def accepted(request: Request, job: Job) -> Response:
    """202 with the job, and where it is asked for."""
    view = await services_of(request).jobs.view(job)
    return JSONResponse(view.model_dump(exclude_none=True), 202, {"Location": f"/v1/jobs/{job.id}"})


async def _from_uploads(request: Request, options: JobOptions, idempotency_key: str | None) -> Job:
    services = services_of(request)
    services.admission.require_open()
    try:
        async with asyncio.timeout(services.settings.limits.body_seconds):
            chunks = [chunk async for chunk in limited(body_of(request), MAX_JSON_BYTES)]
        submission = JobRequest.model_validate_json(b"".join(chunks), strict=True)
    except TimeoutError:
        raise SlowBody("the body took too long to arrive") from None
    except ValidationError as error:
        raise BadOptions(describe(error)) from error
    most = services.settings.jobs.max_pictures
    if len(submission.inputs) > most:
        raise BadOptions(f"at most {most} pictures make one job")
    given = submission.options.model_dump(exclude_unset=True)
    options = options.or_from(given, request.query_params.keys())
    return await services.jobs.submit(
        _submission(request, options, idempotency_key),
        [Input(upload=each.upload, name=each.name) for each in submission.inputs],
        [each.upload for each in submission.inputs],
    )


def _submission(
    request: Request, options: JobOptions, idempotency_key: str | None
) -> JobSubmission:
    own = set(JobOptions.model_fields) - set(Options.model_fields)
    key = caller_of(request).key
    return JobSubmission(
        client=client_of(request),
        options=Options.model_validate(options.model_dump(exclude=own)),
        accept=_picture_ranges(request.headers.get("accept", "")),
        idempotency_key=idempotency_key,
        webhook=options.webhook,
        priority=min(options.priority, HIGHEST_PRIORITY if key is None else key.highest_priority),
        max_waiting=None if key is None else key.waiting_jobs,
        delete_on_fetch=options.delete_on_fetch,
    )


def _picture_ranges(accept: str) -> str:
    """What of Accept is about pictures; the rest is about the job's own answer."""
    return ",".join(part for part in accept.split(",") if part.strip().startswith("image/"))


@router.get(
    "/v1/jobs/{job_id}",
    summary="A job's state",
    dependencies=KEYED,
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
            le=LONGEST_WAIT_SECONDS,
            allow_inf_nan=False,
            description="seconds to wait for the job to be over, at the most",
        ),
    ] = 0.0,
) -> JobView:
    """Where the job is: its place in the queue, tiles done, results, or what went wrong."""
    jobs = services_of(request).jobs
    job = await jobs.find(job_id, owner_of(request))
    if wait:
        job = await jobs.wait(job, wait)
    return await jobs.view(job)


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="A job's progress as it happens",
    dependencies=KEYED,
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events named `job`, each with the job's state as JSON; "
            "the last one when the job is over",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(401, 404, 421, 422, 429, 500, 503),
    },
)
async def events(request: Request, job_id: JOB_ID) -> ClosingResponse:
    """Ends when the job is over, or when the server leaves: connect again then."""
    jobs = services_of(request).jobs
    job = await jobs.find(job_id, owner_of(request))
    return ClosingResponse(
        _stream(jobs.watch(job)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(views: AsyncGenerator[JobView]) -> AsyncGenerator[str]:
    """What changed; a comment where nothing did for a while, so that proxies stay awake."""
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
                yield ": still here\n\n"


@router.delete(
    "/v1/jobs/{job_id}",
    summary="Cancel or delete a job",
    dependencies=KEYED,
    responses=problems(401, 404, 421, 422, 429, 500, 503),
)
async def erase(request: Request, job_id: JOB_ID) -> Receipt:
    """Everything of the job is deleted; the receipt can be checked later."""
    jobs = services_of(request).jobs
    return await jobs.erase(await jobs.find(job_id, owner_of(request)))


def owner_of(request: Request) -> str | None:
    """Whose jobs may be seen. Without keys the job's id alone is the secret: addresses change."""
    return client_of(request) if services_of(request).keys.required else None
