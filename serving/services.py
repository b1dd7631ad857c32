"""The components of an app, passed to its routes as one object."""

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from serving.batching.engine import Engines
from serving.batching.scheduler import Scheduler
from serving.enhance.shadow import ShadowRunner
from serving.enhance.steps import PictureServices
from serving.jobs.jobs import Jobs
from serving.requests.client_address import ClientAddresses
from serving.telemetry.drift import LiveWindow
from serving.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The components that `create_app` builds."""

    pictures: PictureServices
    clients: ClientAddresses
    metrics: Metrics
    scheduler: Scheduler
    engines: Engines
    window: LiveWindow
    shadows: ShadowRunner
    jobs: Jobs


def services_of(request: Request) -> Services:
    """The services of the app that handles this request."""
    return cast(Services, request.app.state.services)
