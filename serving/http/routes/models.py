"""GET /v1/models: the models that are served."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.enhance.costs import CostModel
from serving.http.access import require_key
from serving.http.routes.documents import problems
from serving.models.routing import ModelVersion
from serving.services import services_of
from superres.model.bundle import BundleScore, Licence
from superres.model.tiling import computed_pixels

router = APIRouter(tags=["models"], dependencies=[Depends(require_key)])

MEGAPIXEL_SIDE = 1000  # of the picture for `seconds_per_megapixel`


class ModelCard(BaseModel):
    """One served model."""

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
    seconds_per_megapixel: float | None = Field(
        description="per input megapixel, measured on one idle device; null until it has run"
    )
    output_pixels_per_input_pixel: int = Field(description="output pixels per input pixel")


class ModelList(BaseModel):
    """The response of GET /v1/models."""

    model_config = ConfigDict(frozen=True)

    models: tuple[ModelCard, ...]


@router.get("/v1/models", summary="List the models", responses=problems(401, 421, 429, 500))
async def list_models(request: Request) -> ModelList:
    """All served models; `default` marks the one for requests that name none."""
    pictures = services_of(request).pictures
    champions = sorted(
        pictures.models.champions.values(), key=lambda model_version: model_version.name
    )
    default = pictures.models.default_name
    return ModelList(
        models=tuple(
            _card(model_version, model_version.name == default, pictures.costs)
            for model_version in champions
        )
    )


def _card(model_version: ModelVersion, default: bool, costs: CostModel) -> ModelCard:
    info, backend = model_version.model.bundle.info, model_version.model.upscaler.backend
    given: dict[str, Any] = {
        "name": model_version.name,
        "default": default,
        "task": info.task,
        "scale": info.scale,
        "version": model_version.version,
        "bundle": model_version.model.bundle.id,
        "created": info.created,
        "trained_on": info.training.sources,
        "scores": info.scores,
        "licence": info.licence,
        "backend": backend.name,
        "device": backend.device,
        "precision": backend.precision,
        "seconds_per_megapixel": _seconds_per_megapixel(model_version, costs),
        "output_pixels_per_input_pixel": info.scale**2,
    }
    return ModelCard(**given)


def _seconds_per_megapixel(model_version: ModelVersion, costs: CostModel) -> float | None:
    """Tiles overlap, so the network computes more than one megapixel per input megapixel."""
    pixels = computed_pixels(MEGAPIXEL_SIDE, MEGAPIXEL_SIDE, model_version.model.upscaler.geometry)
    seconds = costs.seconds(model_version.name, pixels)
    return None if seconds is None else round(seconds, 4)
