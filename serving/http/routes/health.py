"""Kubernetes probes, and the metrics for Prometheus.

`/startupz` passes once the models folder has been read, `/livez` while the engines' threads work
(restart the process if it fails), `/readyz` while pictures are accepted (send none if it fails).
"""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from serving.errors import Draining, NotReady
from serving.http.routes.documents import problems
from serving.services import services_of

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """A probe that passed, with the models served and the models refused."""

    status: str = "ok"
    models: tuple[str, ...] = ()
    problems: dict[str, str] = {}


@router.get("/livez", summary="Liveness probe", responses=problems(421, 503))
async def livez(request: Request) -> Health:
    """Fails when an engine has stopped, is stuck or has lost its device: restart the process."""
    services_of(request).engines.require_alive()
    return Health()


@router.get("/readyz", summary="Readiness probe", responses=problems(421, 503))
async def readyz(request: Request) -> Health:
    """Fails while no model is served yet and while the server is shutting down."""
    services = services_of(request)
    models = services.pictures.models
    if services.pictures.admission.draining:
        raise Draining("the server is shutting down", seconds=5)
    services.engines.require_alive()
    models.require_ready()
    return Health(models=tuple(sorted(models.champions)), problems=dict(models.problems))


@router.get("/startupz", summary="Startup probe", responses=problems(421, 503))
async def startupz(request: Request) -> Health:
    """Fails until the models folder has been read once."""
    if not services_of(request).pictures.models.loaded_once:
        raise NotReady("the models are being loaded", seconds=2)
    return Health()


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "Prometheus text exposition; see docs/metrics.md",
        },
        **problems(421),
    },
)
async def metrics(request: Request) -> Response:
    """All metrics of docs/metrics.md."""
    text = services_of(request).metrics.text()
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
