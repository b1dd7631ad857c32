"""Results of jobs, by key or signed URL, and verification of deletion receipts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel

from serving.errors import JobFailed
from serving.http.access import BEARER, require_key
from serving.http.response import ClosingResponse
from serving.http.routes.documents import (
    RESPONSE_HEADERS,
    json_body,
    picture_responses,
    problems,
)
from serving.http.routes.jobs import JOB_ID, REQUIRE_KEY, owner_of
from serving.jobs.views import Receipt
from serving.problems import MEDIA_TYPE, problem_of
from serving.requests.json_body import read_json
from serving.services import services_of

router = APIRouter(tags=["jobs"])

PICTURE_NUMBER = Annotated[int, Query(ge=0, le=10_000, description="which picture, from 0")]


class ReceiptVerification(BaseModel):
    """Whether a receipt is authentic."""

    valid: bool


async def require_key_or_signature(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    n: PICTURE_NUMBER = 0,
    expires: Annotated[
        int | None, Query(ge=0, le=2**53, description="milliseconds of Unix time")
    ] = None,
    signature: Annotated[str | None, Query(max_length=64)] = None,
) -> None:
    """Accept a signed URL in place of a key."""
    request.state.signed = False
    if expires is not None and signature is not None:
        jobs, job_id = services_of(request).jobs, request.path_params["job_id"]
        request.state.signed = await jobs.result_url_is_valid(job_id, n, expires, signature)
    if not request.state.signed:
        await require_key(request, credentials)


@router.get(
    "/v1/jobs/{job_id}/result",
    summary="A job's result",
    dependencies=[Depends(require_key_or_signature)],
    response_class=Response,
    responses={
        **picture_responses(),
        307: {"description": "Redirect to the presigned URL of a result in a bucket"},
        **problems(400, 401, 404, 406, 409, 410, 413, 415, 421, 422, 429, 500, 503, 504, 507),
    },
)
async def result(
    request: Request,
    job_id: JOB_ID,
    n: PICTURE_NUMBER = 0,
) -> Response:
    """The picture with the headers of POST /v1/enhance, or its problem."""
    jobs = services_of(request).jobs
    job = await jobs.find(job_id, None if request.state.signed else owner_of(request))
    picture = await jobs.result(job, n)
    if picture.result_blob is None:
        problem = picture.problem or job.problem or problem_of(JobFailed("there is no result"))
        return JSONResponse(problem, int(problem["status"]), media_type=MEDIA_TYPE)
    url = await jobs.download_url(job, picture) if request.state.signed else None
    if url is not None:
        headers = {name: text for name, text in picture.headers.items() if name in RESPONSE_HEADERS}
        headers = {**headers, "Location": url, "Cache-Control": "no-store"}
        return Response(status_code=307, headers=headers)
    headers = {**picture.headers, "Content-Length": str(picture.result_bytes)}
    return ClosingResponse(jobs.read(job, picture), headers=headers)


@router.post(
    "/v1/receipts/verify",
    summary="Check a receipt of deletion",
    dependencies=REQUIRE_KEY,
    responses=problems(400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 503),
    openapi_extra=json_body(Receipt),
)
async def verify(request: Request) -> ReceiptVerification:
    """Whether the receipt was signed with this server's key."""
    services = services_of(request)
    receipt = await read_json(request, Receipt, services.pictures.settings.limits.body_seconds)
    return ReceiptVerification(valid=await services.jobs.is_authentic(receipt))
