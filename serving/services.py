"""What an app is made of, handed to its routes as one thing."""

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from serving.admission import Admission
from serving.drift import LiveWindow
from serving.engine import Engine
from serving.enhancer import Enhancer
from serving.metrics import Metrics
from serving.models import Models
from serving.reporter import Reporter
from serving.scheduler import Scheduler
from serving.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that `create_app` wires together."""

    settings: Settings
    metrics: Metrics
    reporter: Reporter
    admission: Admission
    scheduler: Scheduler
    engine: Engine
    models: Models
    window: LiveWindow
    enhancer: Enhancer


def services_of(request: Request) -> Services:
    """The services of the app that answers this request."""
    return cast(Services, request.app.state.services)
