"""/v1/uploads: a picture announced, then sent to an address that is signed and ends."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import BadSignature, SlowBody, UploadMismatch
from serving.http.access import client_of, require_key
from serving.http.routes.documents import BINARY, INPUT_TYPES, problems
from serving.jobs.intake import body_of, limited
from serving.services import services_of
from superres.image.codecs import TooManyBytes

router = APIRouter(tags=["jobs"])

UPLOAD_ID = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


class UploadRequest(BaseModel):
    """A picture that is to be sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bytes: int = Field(ge=1, le=2**53, description="of the file")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="of the file, as hex")
    content_type: str = Field("application/octet-stream", max_length=100)


class UploadView(BaseModel):
    """Where the picture goes, and until when."""

    upload: str
    put: str
    expires: str


def _body() -> dict[str, Any]:
    content = {media_type: {"schema": BINARY} for media_type in INPUT_TYPES}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/v1/uploads",
    status_code=201,
    summary="Announce a picture",
    dependencies=[Depends(require_key)],
    responses=problems(400, 401, 403, 413, 421, 422, 429, 500, 503, 507),
)
async def create(request: Request, announcement: UploadRequest) -> UploadView:
    """PUT the picture to the answer's address, then name the upload in POST /v1/jobs."""
    services = services_of(request)
    services.admission.require_open()
    most = services.settings.limits.max_bytes
    if announcement.bytes > most:
        raise TooManyBytes(f"at most {most:,} bytes are taken")
    uploads = await services.jobs.uploads()
    upload, address = await uploads.create(
        client_of(request), announcement.bytes, announcement.sha256
    )
    ours = str(request.base_url).rstrip("/") if address.startswith("/") else ""
    return UploadView(
        upload=upload.id,
        put=ours + address,
        expires=datetime.fromtimestamp(upload.expires_ms / 1000, UTC).isoformat(),
    )


@router.put(
    "/v1/uploads/{upload_id}",
    status_code=204,
    summary="Send an announced picture",
    responses=problems(400, 403, 404, 408, 410, 413, 415, 421, 422, 500, 503, 507),
    openapi_extra=_body(),
)
async def put(
    request: Request,
    upload_id: UPLOAD_ID,
    ends: Annotated[int, Query(ge=0, le=2**53)],
    signature: Annotated[str, Query(max_length=64)],
) -> Response:
    """The address that POST /v1/uploads answered; it needs no key and works once."""
    services = services_of(request)
    services.admission.require_open()
    uploads = await services.jobs.uploads()
    if not uploads.url_is_valid(upload_id, ends, signature):
        raise BadSignature("this is not an address that the server has signed")
    upload = await uploads.waiting(upload_id)
    chunks = limited(body_of(request), upload.bytes)
    try:
        async with asyncio.timeout(services.settings.limits.body_seconds):
            await uploads.keep(upload, chunks)
    except TimeoutError:
        raise SlowBody("the body took too long to arrive") from None
    except TooManyBytes:
        raise UploadMismatch(f"{upload.bytes:,} bytes were announced, more came") from None
    return Response(status_code=204)
