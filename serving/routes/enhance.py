"""POST /v1/enhance: one picture in, one larger picture out."""

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping
from contextlib import ExitStack
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.body import Upload, read_body, unpack
from serving.errors import BadOptions, ClientGone
from serving.negotiation import MEDIA_TYPES, choose_format, content_disposition
from serving.order import Answer, Order, Stages, described, server_timing
from serving.response import PictureResponse
from serving.routes.documents import picture_answers, picture_body, problems
from serving.security import client_of
from serving.services import services_of
from superres.image import Limits, Picture, check_format_holds, decode, inspect
from superres.tiling import computed_pixels

router = APIRouter(tags=["pictures"])

Result = TypeVar("Result")


class Options(BaseModel):
    """What can be asked for: query parameters, or fields of a multipart form; the query wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, max_length=64, description="a name from GET /v1/models")
    scale: int | None = Field(None, ge=1, le=8, description="chooses a model of this scale")
    format: Literal["png", "jpeg", "webp"] | None = Field(
        None, description="of the answer; without it Accept decides, then the input's format"
    )
    quality: int = Field(95, ge=1, le=100, description="of JPEG and WebP")

    def or_from(self, fields: Mapping[str, str], query: Collection[str]) -> "Options":
        """These options, with a form's fields for those that the query did not name."""
        given = self.model_dump(include=set(query))
        try:
            return Options.model_validate({**fields, **given})
        except ValidationError as error:
            raise BadOptions(describe(error)) from error


def describe(error: ValidationError) -> str:
    """Which options are wrong and how, without repeating what was sent."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
    )


@router.post(
    "/v1/enhance",
    summary="Enlarge a picture",
    response_class=Response,
    responses={
        **picture_answers(),
        **problems(400, 403, 404, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=picture_body(),
)
async def enhance(request: Request, options: Annotated[Options, Query()]) -> Response:
    """Send a picture's bytes as the body, or as the field `file` of a multipart form."""
    services = services_of(request)
    services.models.require_ready()
    stages = Stages(services.reporter)
    client = client_of(request)
    with ExitStack() as held:
        entry = held.enter_context(services.admission.enter(client))
        with stages("read"):
            body = await read_body(request, entry, services.settings.limits.body_seconds)
            upload = await services.enhancer.in_worker(
                lambda: unpack(request.headers.get("content-type", ""), body)
            )
        options = options.or_from(upload.fields, request.query_params.keys())
        offer = held.enter_context(services.models.use(options.model, options.scale, client))
        request.state.model = offer.name
        limits = services.admission.picture_limits
        header = await services.enhancer.quickly(lambda: inspect(upload.data, limits))
        format = choose_format(options.format, request.headers.get("accept", ""), header.format)
        entry.hold_answer(header.width * offer.scale, header.height * offer.scale, format)
        deadline_seconds = time.monotonic() + services.settings.limits.deadline_seconds
        geometry = offer.model.upscaler.geometry
        pixels = computed_pixels(header.height, header.width, geometry)
        entry.hold_work(offer.name, pixels, deadline_seconds)
        order = Order(
            read=lambda: _decoded(upload, format, limits),
            offer=offer,
            format=format,
            quality=options.quality,
            deadline_seconds=deadline_seconds,
            client=client,
            progress=entry.work_done,
        )
        answer = await _unless_gone(request, services.enhancer.enhance(order, stages))
        return PictureResponse(
            answer,
            held.pop_all(),  # the place and the model are held until the last byte is sent
            services.reporter,
            media_type=MEDIA_TYPES[format],
            headers=_headers(answer, order, upload),
            taking_seconds=services.settings.limits.body_seconds,
        )


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
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


def _decoded(upload: Upload, format: str, limits: Limits) -> Picture:
    picture = decode(upload.data, name=upload.name, limits=limits)
    check_format_holds(picture, format)
    return picture


def _headers(answer: Answer, order: Order, upload: Upload) -> dict[str, str]:
    offer = order.offer
    return {
        "Content-Disposition": content_disposition(upload.name, order.format),
        "Sharpline-Model": offer.name,
        "Sharpline-Version": offer.version,
        "Sharpline-Bundle": offer.model.bundle.id,
        "Sharpline-Consistency": described(answer.verdict),
        "Server-Timing": server_timing(answer.stage_seconds),
        "Vary": "Accept",
        "Cache-Control": "no-store",
    }
