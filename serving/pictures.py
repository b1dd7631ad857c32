"""What every way to an answer does with one picture: the routes' and the jobs'.

What it is, which model it gets, what it will cost, the order to the enhancer, the answer's headers.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.admission import Entry
from serving.body import Upload
from serving.choice import chosen_for, is_auto, least_scale, named_model
from serving.models import Offer
from serving.negotiation import choose_format, content_disposition
from serving.options import Options
from serving.order import Answer, Order, Stages, described, server_timing
from serving.wishes import Wish, fitting_shrink, parse_region, shrunk_side
from superres.image import Limits, Picture, decode, inspect
from superres.region import Region
from superres.tiling import computed_pixels

if TYPE_CHECKING:
    from serving.services import Services


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


async def received(
    services: "Services", upload: Upload, options: Options, *, accept: str, longest_seconds: float
) -> Received:
    """What an upload is and what is asked of it. Raises PictureError, BadOptions, NotAcceptable."""
    limits = services.admission.picture_limits
    header = await services.enhancer.quickly(lambda: inspect(upload.data, limits))
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
    )


async def choose(
    services: "Services",
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
    height, width = (
        shrunk_side(received.height, wish.shrink),
        shrunk_side(received.width, wish.shrink),
    )
    pixels = computed_pixels(height, width, offer.model.upscaler.geometry)
    if wish.region is not None:
        pixels = max(1, int(pixels * wish.region.share_of(received.height, received.width)))
    return pixels


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
    return Order(
        read=lambda: wish.prepare(received.decoded() if decoded is None else decoded),
        offer=chosen.offer,
        format=received.format,
        quality=wish.quality,
        deadline_seconds=received.deadline_seconds,
        client=client,
        region=wish.region_of_prepared,
        progress=progress,
        background=background,
    )


def headers_of(answer: Answer, received: Received, chosen: Chosen, wish: Wish) -> dict[str, str]:
    """What an answer tells of itself."""
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
