"""POST /v1/enhance: one picture in, one larger picture out."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response

from serving.access import caller_of, client_of, require_key
from serving.admission import Entry
from serving.body import Upload, read_body, unpack
from serving.choice import chosen_for, is_auto, least_scale, named_model
from serving.errors import ClientGone
from serving.models import Offer
from serving.negotiation import MEDIA_TYPES, choose_format, content_disposition
from serving.options import Options
from serving.order import Answer, Order, Stages, described, server_timing
from serving.response import PictureResponse
from serving.routes.documents import picture_answers, picture_body, problems
from serving.services import services_of
from serving.wishes import Wish, fitting_shrink, parse_region, shrunk_side
from superres.image import Limits, Picture, decode, inspect
from superres.region import Region
from superres.tiling import computed_pixels

router = APIRouter(tags=["pictures"], dependencies=[Depends(require_key)])

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request once its header and options are known; sides as the file stores them."""

    upload: Upload
    options: Options
    region: Region | None
    format: str
    width: int
    height: int
    deadline_seconds: float
    limits: Limits

    def decoded(self) -> Picture:
        return decode(
            self.upload.data,
            name=self.upload.name,
            limits=self.limits,
            keep_metadata=self.options.keep_metadata,
        )

    def wish(self, scale: int, max_answer_pixels: int) -> Wish:
        """What is done to the picture for a model of this scale."""
        options, shrink = self.options, 1.0
        if options.on_too_large == "shrink":
            shrink = fitting_shrink(self.width, self.height, scale, self.format, max_answer_pixels)
        return Wish(
            format=self.format,
            quality=options.quality,
            icc=options.icc,
            keep_metadata=options.keep_metadata,
            region=self.region,
            shrink=shrink,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The model, why `auto` took it, and the picture where it had to be decoded for that."""

    offer: Offer
    reason: str | None = None
    picture: Picture | None = None


@router.post(
    "/v1/enhance",
    summary="Enlarge a picture",
    response_class=Response,
    responses={
        **picture_answers(),
        **problems(400, 401, 403, 404, 406, 408, 413, 415, 421, 422, 429, 500, 503, 504),
    },
    openapi_extra=picture_body(),
)
async def enhance(request: Request, options: Annotated[Options, Query()]) -> Response:
    """Send a picture's bytes as the body, or as the field `file` of a multipart form."""
    services = services_of(request)
    services.models.require_ready()
    stages = Stages(services.reporter)
    with ExitStack() as held:
        entry = held.enter_context(services.admission.enter(client_of(request)))
        received = await _receive(request, options, entry, stages)
        chosen = await _choose(request, received, entry, held, stages)
        request.state.model = chosen.offer.name
        wish = received.wish(chosen.offer.scale, services.settings.limits.max_answer_pixels)
        _hold(entry, received, wish, chosen.offer)
        caller_of(request).charge_pixels(entry.answer_pixels)
        order = _order(request, received, chosen, wish, entry)
        answer = await _unless_gone(request, services.enhancer.enhance(order, stages))
        return PictureResponse(
            answer,
            held.pop_all(),  # the place and the model are held until the last byte is sent
            services.reporter,
            media_type=MEDIA_TYPES[received.format],
            headers=_headers(answer, received, chosen, wish),
            taking_seconds=services.settings.limits.body_seconds,
        )


async def _receive(request: Request, options: Options, entry: Entry, stages: Stages) -> Received:
    """The body, what it is and what is asked of it."""
    services = services_of(request)
    with stages("read"):
        body = await read_body(request, entry, services.settings.limits.body_seconds)
        upload = await services.enhancer.in_worker(
            lambda: unpack(request.headers.get("content-type", ""), body)
        )
    options = options.or_from(upload.fields, request.query_params.keys())
    limits = services.admission.picture_limits
    header = await services.enhancer.quickly(lambda: inspect(upload.data, limits))
    longest_seconds = services.settings.limits.deadline_seconds
    return Received(
        upload=upload,
        options=options,
        region=parse_region(options.region),
        format=choose_format(options.format, request.headers.get("accept", ""), header.format),
        width=header.width,
        height=header.height,
        deadline_seconds=time.monotonic()
        + min(options.deadline or longest_seconds, longest_seconds),
        limits=limits,
    )


async def _choose(
    request: Request, received: Received, entry: Entry, held: ExitStack, stages: Stages
) -> Chosen:
    """The model, kept open until `held` ends; for `auto` the picture is decoded and looked at."""
    services, options = services_of(request), received.options
    models, client = services.models, client_of(request)
    if not is_auto(options):
        name = named_model(options, models.offers, models.default_name)
        return Chosen(offer=held.enter_context(models.use(name, options.scale, client)))
    scale = least_scale(options, models.offers)
    wish = received.wish(scale, services.settings.limits.max_answer_pixels)
    entry.hold_answer(*_answer_size(received, wish, scale), received.format)
    with stages("choose"):
        picture = await services.enhancer.in_worker(received.decoded)
        choice = await services.enhancer.in_worker(
            lambda: chosen_for(picture, options, models.offers, services.costs.per_pixel())
        )
    offer = held.enter_context(models.use(choice.model, None, client))
    return Chosen(offer=offer, reason=choice.reason, picture=picture)


def _hold(entry: Entry, received: Received, wish: Wish, offer: Offer) -> None:
    """Take the memory and the time that the answer needs, or be refused."""
    entry.hold_answer(*_answer_size(received, wish, offer.scale), received.format)
    height, width = (
        shrunk_side(received.height, wish.shrink),
        shrunk_side(received.width, wish.shrink),
    )
    pixels = computed_pixels(height, width, offer.model.upscaler.geometry)
    if wish.region is not None:
        pixels = max(1, int(pixels * wish.region.share_of(received.height, received.width)))
    entry.hold_work(offer.name, pixels, received.deadline_seconds)


def _answer_size(received: Received, wish: Wish, scale: int) -> tuple[int, int]:
    """Width and height."""
    width, height = (shrunk_side(side, wish.shrink) for side in (received.width, received.height))
    return width * scale, height * scale


def _order(request: Request, received: Received, chosen: Chosen, wish: Wish, entry: Entry) -> Order:
    decoded = chosen.picture
    return Order(
        read=lambda: wish.prepare(received.decoded() if decoded is None else decoded),
        offer=chosen.offer,
        format=received.format,
        quality=wish.quality,
        deadline_seconds=received.deadline_seconds,
        client=client_of(request),
        region=wish.region_of_prepared,
        progress=entry.work_done,
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


def _headers(answer: Answer, received: Received, chosen: Chosen, wish: Wish) -> dict[str, str]:
    offer = chosen.offer
    headers = {
        "Content-Disposition": content_disposition(received.upload.name, received.format),
        "Sharpline-Model": offer.name,
        "Sharpline-Version": offer.version,
        "Sharpline-Bundle": offer.model.bundle.id,
        "Sharpline-Consistency": described(answer.verdict),
        "Server-Timing": server_timing(answer.stage_seconds),
        "Vary": "Accept",
        "Cache-Control": "no-store",
    }
    if chosen.reason is not None:
        headers["Sharpline-Reason"] = " ".join(
            chosen.reason.encode("ascii", "replace").decode().split()
        )
    if wish.shrink < 1:
        headers["Sharpline-Shrunk"] = f"{wish.shrink:.4f}"
    return headers
