"""GET /v1/models: what is served, by which names."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from serving.models import Offer
from serving.services import services_of
from superres.bundle import BundleScore, Licence

router = APIRouter(tags=["models"])


class ModelCard(BaseModel):
    """One model as it is served now."""

    model_config = ConfigDict(frozen=True)

    name: str
    default: bool
    task: str
    scale: int
    version: str
    bundle: str
    created: str
    trained_on: tuple[str, ...]
    scores: tuple[BundleScore, ...]
    licence: Licence
    backend: str
    device: str
    precision: str


class ModelList(BaseModel):
    """The answer of GET /v1/models."""

    model_config = ConfigDict(frozen=True)

    models: tuple[ModelCard, ...]


@router.get("/v1/models", summary="List the models")
async def list_models(request: Request) -> ModelList:
    """Every model that a picture can be sent to; `default` marks the one of a bare request."""
    services = services_of(request)
    offers = sorted(services.models.offers.values(), key=lambda offer: offer.name)
    default = services.models.default_name
    return ModelList(models=tuple(_card(offer, offer.name == default) for offer in offers))


def _card(offer: Offer, default: bool) -> ModelCard:
    info, backend = offer.model.bundle.info, offer.model.upscaler.backend
    given: dict[str, Any] = {
        "name": offer.name,
        "default": default,
        "task": info.task,
        "scale": info.scale,
        "version": offer.version,
        "bundle": offer.model.bundle.id,
        "created": info.created,
        "trained_on": tuple(dataset.source for dataset in info.training.datasets),
        "scores": info.scores,
        "licence": info.licence,
        "backend": backend.name,
        "device": backend.device,
        "precision": backend.precision,
    }
    return ModelCard(**given)
