"""The components of an app, passed to its routes as one object."""

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from serving.batching.engine import Engines
from serving.batching.scheduler import Scheduler
from serving.enhance.admission import Admission
from serving.enhance.costs import CostModel
from serving.enhance.enhancer import Enhancer
from serving.enhance.shadow import ShadowRunner
from serving.jobs.jobs import Jobs
from serving.models.reload import Models
from serving.reporter import Reporter
from serving.requests.client_address import ClientAddresses
from serving.requests.keys import KeyRing
from serving.settings import Settings
from serving.telemetry.drift import LiveWindow
from serving.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The components that `create_app` builds."""

    settings: Settings
    keys: KeyRing
    clients: ClientAddresses
    metrics: Metrics
    reporter: Reporter
    admission: Admission
    scheduler: Scheduler
    engines: Engines
    models: Models
    window: LiveWindow
    enhancer: Enhancer
    costs: CostModel
    shadows: ShadowRunner
    jobs: Jobs


def services_of(request: Request) -> Services:
    """The services of the app that handles this request."""
    return cast(Services, request.app.state.services)
