"""The steps for one picture that routes and jobs share.

Inspecting the upload, choosing the model, its cost, the request to the enhancer, response headers.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from serving.enhance.admission import Admission, AdmittedRequest
from serving.enhance.costs import CostModel
from serving.enhance.enhancer import Enhancer
from serving.enhance.request import (
    EnhanceRequest,
    EnhanceResult,
    StageTimer,
    consistency_header,
    server_timing,
)
from serving.enhance.transform import OutputOptions, fitting_shrink, parse_region, shrunk_side
from serving.models.reload import Models
from serving.models.routing import ModelVersion
from serving.models.selection import is_auto, min_scale, named_model, select_for_picture
from serving.requests.body import Upload
from serving.requests.negotiation import choose_format, content_disposition
from serving.requests.options import Options
from serving.settings import Settings
from serving.telemetry.logs import request_id_now
from superres.image.codecs import Limits, Picture, decode, inspect
from superres.image.passport import Passport, Step, earlier_passport, extended
from superres.image.region import REACH, Region
from superres.model.tiling import Geometry, best_bucket, computed_pixels


class PictureServices(Protocol):
    """The services that these steps need."""

    @property
    def settings(self) -> Settings: ...
    @property
    def admission(self) -> Admission: ...
    @property
    def models(self) -> Models: ...
    @property
    def enhancer(self) -> Enhancer: ...
    @property
    def costs(self) -> CostModel: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedPicture:
    """One inspected upload with its options; `width` and `height` are those stored in the file.

    `earlier` is the upload's passport, `embed` whether the answer's file gets one.
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

    def output_options(self, scale: int, max_output_pixels: int) -> OutputOptions:
        """The output options for a model of this scale."""
        options, shrink = self.options, 1.0
        if options.on_too_large == "shrink":
            shrink = fitting_shrink(self.width, self.height, scale, self.format, max_output_pixels)
        return OutputOptions(
            format=self.format,
            quality=options.quality,
            icc=options.icc,
            keep_metadata=options.keep_metadata,
            region=self.region,
            shrink=shrink,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedModel:
    """The model and, for `auto`, the reason for it and the decoded picture."""

    model_version: ModelVersion
    reason: str | None = None
    picture: Picture | None = None


async def inspect_upload(
    services: PictureServices,
    upload: Upload,
    options: Options,
    *,
    accept: str,
    longest_seconds: float,
) -> ReceivedPicture:
    """Read an upload's header. Raises PictureError, BadOptions or NotAcceptable."""
    limits = services.admission.picture_limits
    header, earlier = await services.enhancer.in_light_worker(
        lambda: (inspect(upload.data, limits), earlier_passport(upload.data, limits))
    )
    return ReceivedPicture(
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


async def select_model(
    services: PictureServices,
    received: ReceivedPicture,
    client: str,
    admitted: AdmittedRequest,
    stack: ExitStack,
    stages: StageTimer,
) -> SelectedModel:
    """Choose the model, kept open until `stack` ends; `auto` decodes and examines the picture."""
    models, options = services.models, received.options
    if not is_auto(options):
        name = named_model(options, models.champions, models.default_name)
        return SelectedModel(
            model_version=stack.enter_context(models.use(name, options.scale, client))
        )
    scale = min_scale(options, models.champions)
    output_options = received.output_options(scale, services.settings.limits.max_output_pixels)
    admitted.reserve_output(*output_size(received, output_options, scale), received.format)
    with stages("select"):
        picture = await services.enhancer.in_worker(received.decoded)
        choice = await services.enhancer.in_worker(
            lambda: select_for_picture(
                picture, options, models.champions, services.costs.per_pixel()
            )
        )
    model_version = stack.enter_context(models.use(choice.model, None, client))
    return SelectedModel(model_version=model_version, reason=choice.reason, picture=picture)


def work_pixels(
    received: ReceivedPicture, output_options: OutputOptions, model_version: ModelVersion
) -> int:
    """LR pixels that the network computes."""
    height, width = (
        shrunk_side(side, output_options.shrink) for side in (received.height, received.width)
    )
    geometry, region = model_version.model.upscaler.geometry, output_options.region_of_prepared
    if region is None:
        return computed_pixels(height, width, geometry)
    return region_pixels(region, height, width, geometry)


def region_pixels(region: Region, height: int, width: int, geometry: Geometry) -> int:
    """LR pixels of the tiles that a region's bounds overlap: an upper bound of those computed."""
    tile_height, tile_width = best_bucket(height, width, geometry)
    left, top, right, bottom = region.bounds
    rows = _tiles_overlapped(top, bottom, height, tile_height - 2 * geometry.halo)
    columns = _tiles_overlapped(left, right, width, tile_width - 2 * geometry.halo)
    return rows * columns * tile_height * tile_width


def _tiles_overlapped(first: float, last: float, side: int, step: int) -> int:
    """Number of tiles with cores of `step` pixels that `first` to `last` overlaps; at least 1."""
    begin, end = max(0, math.floor(first - REACH)), min(side, math.ceil(last + REACH))
    return max(1, math.ceil(end / step) - begin // step)


def output_size(
    received: ReceivedPicture, output_options: OutputOptions, scale: int
) -> tuple[int, int]:
    """Width and height of the answer in pixels."""
    width, height = (
        shrunk_side(side, output_options.shrink) for side in (received.width, received.height)
    )
    return width * scale, height * scale


def enhance_request_of(
    received: ReceivedPicture,
    selected: SelectedModel,
    output_options: OutputOptions,
    *,
    client: str,
    progress: Callable[[float], None],
    background: bool = False,
) -> EnhanceRequest:
    """The request to the enhancer."""
    decoded = selected.picture
    text = passport_of(received, selected, output_options).text() if received.embed else None

    def read() -> Picture:
        picture = output_options.prepare(received.decoded() if decoded is None else decoded)
        return replace(picture, passport=text)

    return EnhanceRequest(
        read=read,
        model_version=selected.model_version,
        format=received.format,
        quality=output_options.quality,
        deadline_seconds=received.deadline_seconds,
        client=client,
        region=output_options.region_of_prepared,
        progress=progress,
        background=background,
    )


def passport_of(
    received: ReceivedPicture, selected: SelectedModel, output_options: OutputOptions
) -> Passport:
    """The answer's passport: the input's passport and this step."""
    model_version = selected.model_version
    did = [
        f"enlarged x{model_version.scale}"
        + (" in a region" if output_options.region is not None else "")
    ]
    if output_options.shrink < 1:
        did.insert(0, f"shrunk to {output_options.shrink:.4f} of its sides")
    if output_options.icc == "srgb":
        did.insert(0, "colours converted to sRGB")
    step = Step(
        model=model_version.name,
        version=model_version.version,
        bundle=model_version.model.bundle.id,
        request=received.request_id,
        did=tuple(did),
    )
    return extended(received.earlier, step)


def headers_of(
    answer: EnhanceResult,
    received: ReceivedPicture,
    selected: SelectedModel,
    output_options: OutputOptions,
) -> dict[str, str]:
    """The response headers of an answer."""
    model_version = selected.model_version
    headers = {
        "Content-Disposition": content_disposition(received.upload.name, received.format),
        "Sharpline-Model": model_version.name,
        "Sharpline-Version": model_version.version,
        "Sharpline-Bundle": model_version.model.bundle.id,
        "Sharpline-Chain": passport_of(received, selected, output_options).header(),
        "Sharpline-Consistency": consistency_header(answer.consistency_result),
        "Server-Timing": server_timing(answer.stage_seconds),
        "Vary": "Accept",
        "Cache-Control": "no-store",
    }
    if selected.reason is not None:
        headers["Sharpline-Reason"] = " ".join(
            selected.reason.encode("ascii", "replace").decode().split()
        )
    if output_options.shrink < 1:
        headers["Sharpline-Shrunk"] = f"{output_options.shrink:.4f}"
    return headers
