"""What every way to an answer does with one picture: the routes' and the jobs'.

What it is, which model it gets, what it will cost, the order to the enhancer, the answer's headers.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from serving.enhance.admission import Admission, Entry
from serving.enhance.costs import Costs
from serving.enhance.enhancer import Enhancer
from serving.enhance.request import Answer, Order, Stages, described, server_timing
from serving.enhance.transform import Wish, fitting_shrink, parse_region, shrunk_side
from serving.models.reload import Models
from serving.models.routing import Offer
from serving.models.selection import chosen_for, is_auto, least_scale, named_model
from serving.requests.body import Upload
from serving.requests.negotiation import choose_format, content_disposition
from serving.requests.options import Options
from serving.settings import Settings
from serving.telemetry.logs import request_id_now
from superres.image.codecs import Limits, Picture, decode, inspect
from superres.image.passport import Passport, Step, earlier_passport, extended
from superres.image.region import REACH, Region
from superres.model.tiling import Geometry, best_bucket, computed_pixels


class Rooms(Protocol):
    """What of the server has to do with a picture."""

    @property
    def settings(self) -> Settings: ...
    @property
    def admission(self) -> Admission: ...
    @property
    def models(self) -> Models: ...
    @property
    def enhancer(self) -> Enhancer: ...
    @property
    def costs(self) -> Costs: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request once its header and options are known; sides as the file stores them.

    `earlier` is the passport that the upload carries, `embed` whether the answer's file gets one.
    """

    upload: Upload
    options: Options
    region: Region | None
    format: str
    width: int
    height: int
    deadline_seconds: float
    limits: Limits
    request_id: str | None
    earlier: Passport | None
    embed: bool

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


async def received(
    services: Rooms, upload: Upload, options: Options, *, accept: str, longest_seconds: float
) -> Received:
    """What an upload is and what is asked of it. Raises PictureError, BadOptions, NotAcceptable."""
    limits = services.admission.picture_limits
    header, earlier = await services.enhancer.quickly(
        lambda: (inspect(upload.data, limits), earlier_passport(upload.data, limits))
    )
    return Received(
        upload=upload,
        options=options,
        region=parse_region(options.region),
        format=choose_format(options.format, accept, header.format),
        width=header.width,
        height=header.height,
        deadline_seconds=time.monotonic()
        + min(options.deadline or longest_seconds, longest_seconds),
        limits=limits,
        request_id=request_id_now.get(),
        earlier=earlier,
        embed=services.settings.passport.embed,
    )


async def choose(
    services: Rooms,
    received: Received,
    client: str,
    entry: Entry,
    held: ExitStack,
    stages: Stages,
) -> Chosen:
    """The model, kept open until `held` ends; for `auto` the picture is decoded and looked at."""
    models, options = services.models, received.options
    if not is_auto(options):
        name = named_model(options, models.offers, models.default_name)
        return Chosen(offer=held.enter_context(models.use(name, options.scale, client)))
    scale = least_scale(options, models.offers)
    wish = received.wish(scale, services.settings.limits.max_answer_pixels)
    entry.hold_answer(*answer_size(received, wish, scale), received.format)
    with stages("choose"):
        picture = await services.enhancer.in_worker(received.decoded)
        choice = await services.enhancer.in_worker(
            lambda: chosen_for(picture, options, models.offers, services.costs.per_pixel())
        )
    offer = held.enter_context(models.use(choice.model, None, client))
    return Chosen(offer=offer, reason=choice.reason, picture=picture)


def work_pixels(received: Received, wish: Wish, offer: Offer) -> int:
    """LR pixels that the network will see."""
    height, width = (shrunk_side(side, wish.shrink) for side in (received.height, received.width))
    geometry, region = offer.model.upscaler.geometry, wish.region_of_prepared
    if region is None:
        return computed_pixels(height, width, geometry)
    return region_pixels(region, height, width, geometry)


def region_pixels(region: Region, height: int, width: int, geometry: Geometry) -> int:
    """LR pixels of the tiles that the bounds of a region reach, never less than are computed."""
    tile_height, tile_width = best_bucket(height, width, geometry)
    left, top, right, bottom = region.bounds
    rows = _tiles_met(top, bottom, height, tile_height - 2 * geometry.halo)
    columns = _tiles_met(left, right, width, tile_width - 2 * geometry.halo)
    return rows * columns * tile_height * tile_width


def _tiles_met(first: float, last: float, side: int, step: int) -> int:
    """How many tiles with cores of `step` pixels a stretch of a side reaches; at least one."""
    begin, end = max(0, math.floor(first - REACH)), min(side, math.ceil(last + REACH))
    return max(1, math.ceil(end / step) - begin // step)


def answer_size(received: Received, wish: Wish, scale: int) -> tuple[int, int]:
    """Width and height of the answer."""
    width, height = (shrunk_side(side, wish.shrink) for side in (received.width, received.height))
    return width * scale, height * scale


def order_of(
    received: Received,
    chosen: Chosen,
    wish: Wish,
    *,
    client: str,
    progress: Callable[[float], None],
    background: bool = False,
) -> Order:
    """The order to the enhancer."""
    decoded = chosen.picture
    text = passport_of(received, chosen, wish).text() if received.embed else None

    def read() -> Picture:
        picture = wish.prepare(received.decoded() if decoded is None else decoded)
        return replace(picture, passport=text)

    return Order(
        read=read,
        offer=chosen.offer,
        format=received.format,
        quality=wish.quality,
        deadline_seconds=received.deadline_seconds,
        client=client,
        region=wish.region_of_prepared,
        progress=progress,
        background=background,
    )


def passport_of(received: Received, chosen: Chosen, wish: Wish) -> Passport:
    """What the answer says of its making, and its input of what came before."""
    offer = chosen.offer
    did = [f"enlarged x{offer.scale}" + (" in a region" if wish.region is not None else "")]
    if wish.shrink < 1:
        did.insert(0, f"shrunk to {wish.shrink:.4f} of its sides")
    if wish.icc == "srgb":
        did.insert(0, "colours converted to sRGB")
    step = Step(
        model=offer.name,
        version=offer.version,
        bundle=offer.model.bundle.id,
        request=received.request_id,
        did=tuple(did),
    )
    return extended(received.earlier, step)


def headers_of(answer: Answer, received: Received, chosen: Chosen, wish: Wish) -> dict[str, str]:
    """What an answer tells of itself."""
    offer = chosen.offer
    headers = {
        "Content-Disposition": content_disposition(received.upload.name, received.format),
        "Sharpline-Model": offer.name,
        "Sharpline-Version": offer.version,
        "Sharpline-Bundle": offer.model.bundle.id,
        "Sharpline-Chain": passport_of(received, chosen, wish).header(),
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
