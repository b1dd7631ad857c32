"""The steps of one picture, from its slot to its answer; routes and jobs share them."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from serving.enhance.admission import Admission
from serving.enhance.costs import CostModel
from serving.enhance.enhancer import Enhancer
from serving.enhance.pictures import PlannedPicture, ReceivedPicture, SelectedModel, deadline_of
from serving.enhance.request import EnhanceResult, ResponseObserver, StageObserver, StageTimer
from serving.enhance.transform import OutputOptions, parse_region
from serving.models.reload import Models
from serving.models.routing import ModelVersion
from serving.models.selection import is_auto, min_scale, named_model, select_for_picture
from serving.requests.body import Upload
from serving.requests.keys import KeyRing
from serving.requests.negotiation import choose_format
from serving.requests.options import Options
from serving.settings import Settings
from serving.telemetry.logs import request_id_now
from superres.image.codecs import inspect
from superres.image.passport import earlier_passport

BACKGROUND_CLIENT = "jobs"  # for admission: all background work counts as one client


class PictureReporter(StageObserver, ResponseObserver, Protocol):
    """Is notified of stages and of aborted responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureServices:
    """The components that process pictures, of requests and of jobs."""

    settings: Settings
    keys: KeyRing
    reporter: PictureReporter
    admission: Admission
    models: Models
    enhancer: Enhancer
    costs: CostModel


class PictureSteps:
    """One picture: `inspect_upload`, `select_model`, `reserve`, then `enhance`.

    The slot and the model are held until `resources` are closed. A `background` picture takes a
    slot and memory like any other, but reserves no compute time: it yields to requests, so no
    request is refused because of it.
    """

    def __init__(
        self,
        services: PictureServices,
        resources: ExitStack,
        client: str,
        *,
        background: bool = False,
    ) -> None:
        """Take a slot. Raises NotReady, Draining or QueueFull."""
        services.models.require_ready()
        self._services = services
        self._resources = resources
        self._client = client
        self._background = background
        self.stages = StageTimer(services.reporter)
        self.admitted = resources.enter_context(
            services.admission.admit(BACKGROUND_CLIENT if background else client)
        )

    async def inspect_upload(
        self, upload: Upload, options: Options, *, accept: str, longest_seconds: float
    ) -> ReceivedPicture:
        """Read an upload's header. Raises PictureError, BadOptions or NotAcceptable."""
        limits = self._services.admission.picture_limits
        header, earlier = await self._services.enhancer.in_light_worker(
            lambda: (inspect(upload.data, limits), earlier_passport(upload.data, limits))
        )
        return ReceivedPicture(
            upload=upload,
            options=options,
            region=parse_region(options.region),
            format=choose_format(options.format, accept, header.format),
            width=header.width,
            height=header.height,
            deadline_seconds=deadline_of(options, longest_seconds),
            limits=limits,
            request_id=request_id_now.get(),
            earlier=earlier,
            embed=self._services.settings.passport.embed,
        )

    async def select_model(self, received: ReceivedPicture) -> SelectedModel:
        """Choose and open the model; `auto` decodes and examines the picture."""
        models, options = self._services.models, received.options
        if not is_auto(options):
            name = named_model(options, models.champions, models.default_name)
            return SelectedModel(model_version=self.use_model(name, options.scale))
        self._reserve_output(received, min_scale(options, models.champions))
        enhancer, costs = self._services.enhancer, self._services.costs
        with self.stages("select"):
            picture = await enhancer.in_worker(received.decoded)
            choice = await enhancer.in_worker(
                lambda: select_for_picture(picture, options, models.champions, costs.per_pixel())
            )
        model_version = self.use_model(choice.model)
        return SelectedModel(model_version=model_version, reason=choice.reason, picture=picture)

    def use_model(self, name: str | None, scale: int | None = None) -> ModelVersion:
        """Open a model for this client. Raises NotReady, UnknownModel or BadOptions."""
        return self._resources.enter_context(self._services.models.use(name, scale, self._client))

    def reserve(
        self, received: ReceivedPicture, selected: SelectedModel, charge: Callable[[int], None]
    ) -> PlannedPicture:
        """Reserve memory for the answer and time for the work, and `charge` output pixels.

        Raises OutputTooLarge, FormatCannotHold, QueueFull or QuotaExceeded.
        """
        model_version = selected.model_version
        output_options = self._reserve_output(received, model_version.scale)
        planned = PlannedPicture(
            received=received, selected=selected, output_options=output_options
        )
        if not self._background:
            self.admitted.reserve_work(
                model_version.name, planned.work_pixels, received.deadline_seconds
            )
        charge(self.admitted.output_pixels)
        return planned

    async def enhance(
        self, planned: PlannedPicture, progress: Callable[[float], None] | None = None
    ) -> EnhanceResult:
        """The answer, once its first chunk is ready; see `Enhancer.enhance`."""
        enhance_request = planned.enhance_request(
            client=self._client,
            progress=progress or self.admitted.work_done,
            background=self._background,
        )
        return await self._services.enhancer.enhance(enhance_request, self.stages)

    def _reserve_output(self, received: ReceivedPicture, scale: int) -> OutputOptions:
        max_output_pixels = self._services.settings.limits.max_output_pixels
        output_options = received.output_options(scale, max_output_pixels)
        height, width = received.prepared_size(output_options)
        self.admitted.reserve_output(width * scale, height * scale, received.format)
        return output_options
