"""/v1/uploads: pictures are sent to signed, expiring URLs."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import BadSignature, UploadMismatch
from serving.http.access import client_of, require_key
from serving.http.routes.documents import json_body, picture_body, problems
from serving.requests.body import body_timeout, limit_bytes, stream_body
from serving.requests.json_body import read_json
from serving.services import services_of
from superres.image.codecs import TooManyBytes

router = APIRouter(tags=["jobs"])

UPLOAD_ID = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


class UploadRequest(BaseModel):
    """Size and checksum of a picture to upload."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bytes: int = Field(ge=1, le=2**53, description="file size")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="of the file, in hex")
    content_type: str = Field("application/octet-stream", max_length=100)


class UploadView(BaseModel):
    """An upload's id, its signed URL for PUT, and when it expires."""

    upload: str
    url: str
    expires: str


@router.post(
    "/v1/uploads",
    status_code=201,
    summary="Create an upload",
    dependencies=[Depends(require_key)],
    responses=problems(400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 503, 507),
    openapi_extra=json_body(UploadRequest),
)
async def create(request: Request) -> UploadView:
    """PUT the picture to the URL in `url`, then pass the upload's id to POST /v1/jobs."""
    services = services_of(request)
    services.pictures.admission.require_open()
    limits = services.pictures.settings.limits
    upload_request = await read_json(request, UploadRequest, limits.body_seconds)
    if upload_request.bytes > limits.max_bytes:
        raise TooManyBytes(f"at most {limits.max_bytes:,} bytes are allowed")
    uploads = await services.jobs.uploads()
    upload, url = await uploads.create(
        client_of(request), upload_request.bytes, upload_request.sha256
    )
    ours = str(request.base_url).rstrip("/") if url.startswith("/") else ""
    return UploadView(
        upload=upload.id,
        url=ours + url,
        expires=datetime.fromtimestamp(upload.expires_ms / 1000, UTC).isoformat(),
    )


@router.put(
    "/v1/uploads/{upload_id}",
    status_code=204,
    summary="Upload a picture",
    responses=problems(400, 403, 404, 408, 410, 413, 415, 421, 422, 500, 503, 507),
    openapi_extra=picture_body(),
)
async def put(
    request: Request,
    upload_id: UPLOAD_ID,
    expires: Annotated[int, Query(ge=0, le=2**53)],
    signature: Annotated[str, Query(max_length=64)],
) -> Response:
    """The signed URL from POST /v1/uploads; it needs no key and works once."""
    services = services_of(request)
    services.pictures.admission.require_open()
    uploads = await services.jobs.uploads()
    if not uploads.url_is_valid(upload_id, expires, signature):
        raise BadSignature("the URL's signature is not valid")
    upload = await uploads.pending(upload_id)
    chunks = limit_bytes(stream_body(request), upload.bytes)
    try:
        async with body_timeout(services.pictures.settings.limits.body_seconds):
            await uploads.receive(upload, chunks)
    except TooManyBytes:
        raise UploadMismatch(f"{upload.bytes:,} bytes were declared, more received") from None
    return Response(status_code=204)
