"""One picture of a request or a job: as received, then with its model and output options."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from serving.enhance.request import (
    EnhanceRequest,
    EnhanceResult,
    consistency_header,
    server_timing,
)
from serving.enhance.transform import OutputOptions, fitting_shrink, shrunk_side
from serving.models.routing import ModelVersion
from serving.requests.body import Upload
from serving.requests.negotiation import content_disposition
from serving.requests.options import Options
from superres.image.codecs import Limits, Picture, decode
from superres.image.passport import Passport, Step, extended
from superres.image.region import REACH, Region
from superres.model.tiling import Geometry, best_bucket, computed_pixels, plan


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

    def prepared_size(self, output_options: OutputOptions) -> tuple[int, int]:
        """Height and width of the picture that the model gets."""
        shrink = output_options.shrink
        return shrunk_side(self.height, shrink), shrunk_side(self.width, shrink)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedModel:
    """The model and, for `auto`, the reason for it and the decoded picture."""

    model_version: ModelVersion
    reason: str | None = None
    picture: Picture | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPicture:
    """A received picture with its model and output options."""

    received: ReceivedPicture
    selected: SelectedModel
    output_options: OutputOptions

    @property
    def work_pixels(self) -> int:
        """LR pixels that the network computes."""
        height, width = self.received.prepared_size(self.output_options)
        geometry, region = self._geometry, self.output_options.region_of_prepared
        if region is None:
            return computed_pixels(height, width, geometry)
        return region_pixels(region, height, width, geometry)

    @property
    def tiles(self) -> int:
        """Tiles of the whole picture."""
        return len(plan(*self.received.prepared_size(self.output_options), self._geometry).boxes)

    @property
    def _geometry(self) -> Geometry:
        return self.selected.model_version.model.upscaler.geometry

    def enhance_request(
        self, *, client: str, progress: Callable[[float], None], background: bool
    ) -> EnhanceRequest:
        """The request to the enhancer."""
        received, output_options = self.received, self.output_options
        decoded = self.selected.picture
        text = self.passport().text() if received.embed else None

        def read() -> Picture:
            picture = output_options.prepare(received.decoded() if decoded is None else decoded)
            return replace(picture, passport=text)

        return EnhanceRequest(
            read=read,
            model_version=self.selected.model_version,
            format=received.format,
            quality=output_options.quality,
            deadline_seconds=received.deadline_seconds,
            client=client,
            region=output_options.region_of_prepared,
            progress=progress,
            background=background,
        )

    def passport(self) -> Passport:
        """The answer's passport: the input's passport and this step."""
        model_version, output_options = self.selected.model_version, self.output_options
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
            request=self.received.request_id,
            did=tuple(did),
        )
        return extended(self.received.earlier, step)

    def headers(self, answer: EnhanceResult) -> dict[str, str]:
        """The response headers of the answer."""
        received, model_version = self.received, self.selected.model_version
        headers = {
            "Content-Disposition": content_disposition(received.upload.name, received.format),
            "Sharpline-Model": model_version.name,
            "Sharpline-Version": model_version.version,
            "Sharpline-Bundle": model_version.model.bundle.id,
            "Sharpline-Chain": self.passport().header(),
            "Sharpline-Consistency": consistency_header(answer.consistency_result),
            "Server-Timing": server_timing(answer.stage_seconds),
            "Vary": "Accept",
            "Cache-Control": "no-store",
        }
        if self.selected.reason is not None:
            headers["Sharpline-Reason"] = " ".join(
                self.selected.reason.encode("ascii", "replace").decode().split()
            )
        if self.output_options.shrink < 1:
            headers["Sharpline-Shrunk"] = f"{self.output_options.shrink:.4f}"
        return headers


def deadline_of(options: Options, longest_seconds: float) -> float:
    """The deadline of a picture received now, on `time.monotonic`'s clock."""
    return time.monotonic() + min(options.deadline or longest_seconds, longest_seconds)


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
