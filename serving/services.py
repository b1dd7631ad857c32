"""What an app is made of, handed to its routes as one thing."""

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from serving.admission import Admission
from serving.clients import Clients
from serving.costs import Costs
from serving.drift import LiveWindow
from serving.engine import Engines
from serving.enhancer import Enhancer
from serving.jobs.jobs import Jobs
from serving.keys import KeyRing
from serving.metrics import Metrics
from serving.models import Models
from serving.reporter import Reporter
from serving.scheduler import Scheduler
from serving.settings import Settings
from serving.shadow import ShadowRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that `create_app` wires together."""

    settings: Settings
    keys: KeyRing
    clients: Clients
    metrics: Metrics
    reporter: Reporter
    admission: Admission
    scheduler: Scheduler
    engines: Engines
    models: Models
    window: LiveWindow
    enhancer: Enhancer
    costs: Costs
    shadows: ShadowRunner
    jobs: Jobs


def services_of(request: Request) -> Services:
    """The services of the app that answers this request."""
    return cast(Services, request.app.state.services)
