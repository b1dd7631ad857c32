"""/v2: the Open Inference Protocol, for clients that speak it to every model server.

The way of a tensor is that of a picture of POST /v1/enhance, with the same limits and refusals; a
problem's detail stands in `error` as well, where these clients look for it.
"""

import time
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.enhance.pictures import (
    ReceivedPicture,
    SelectedModel,
    answer_size,
    enhance_request_of,
    work_pixels,
)
from serving.enhance.request import StageTimer, consistency_header
from serving.errors import BadOptions, UnknownModel
from serving.http.access import caller_of, client_of, require_key
from serving.http.response import PictureResponse
from serving.http.routes import health
from serving.http.routes.documents import BINARY, problems
from serving.http.routes.enhance import unless_gone
from serving.models.reload import ModelVersion
from serving.requests.body import Upload, read_body
from serving.requests.options import Options, describe
from serving.requests.tensors import (
    HEADER_LENGTH,
    TENSOR,
    Inference,
    ParsedInference,
    message,
    parse,
)
from serving.services import services_of
from serving.telemetry.logs import request_id_now
from superres.image.codecs import RAW

PREFIX = "/v2"
MODEL = PREFIX + "/models/{model}"
VERSION = MODEL + "/versions/{version}"

router = APIRouter(tags=["open inference protocol"])
guarded = APIRouter(tags=["open inference protocol"], dependencies=[Depends(require_key)])


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Live(_Answer):
    """The process answers."""

    live: bool = True


class Ready(_Answer):
    """Pictures are taken."""

    ready: bool = True


class ModelReady(_Answer):
    """A model takes pictures."""

    name: str
    ready: bool = True


class ServerMetadata(_Answer):
    """What the server is."""

    name: str
    version: str
    extensions: tuple[str, ...] = ("binary_tensor_data",)


class TensorMetadata(_Answer):
    """A tensor; -1 stands for any length. FP32 from 0 to 1 is taken and answered as well."""

    name: str = TENSOR
    datatype: str = "UINT8"
    shape: tuple[int, ...] = (1, -1, -1, 3)


class ModelMetadata(_Answer):
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...] = (TensorMetadata(),)
    outputs: tuple[TensorMetadata, ...] = (TensorMetadata(),)


@router.get(PREFIX + "/health/live", summary="Whether it lives", responses=problems(421, 503))
async def live(request: Request) -> Live:
    """As /livez."""
    await health.livez(request)
    return Live()


@router.get(PREFIX + "/health/ready", summary="Whether it is ready", responses=problems(421, 503))
async def ready(request: Request) -> Ready:
    """As /readyz."""
    await health.readyz(request)
    return Ready()


@guarded.get(PREFIX, summary="What the server is", responses=problems(401, 421, 429, 500))
async def server_metadata() -> ServerMetadata:
    """Name, version and extensions of the protocol."""
    return ServerMetadata(name="sharpline", version=installed_version("sharpline"))


@guarded.get(VERSION, summary="One version", responses=problems(401, 404, 421, 429, 500))
@guarded.get(MODEL, summary="What a model takes", responses=problems(401, 404, 421, 429, 500))
async def model_metadata(request: Request, model: str, version: str | None = None) -> ModelMetadata:
    """The tensors of a model that is served."""
    model_version = _offer(request, model, version)
    return ModelMetadata(
        name=model_version.name,
        versions=(model_version.version,),
        platform=f"sharpline_{model_version.model.upscaler.backend.name}",
    )


@guarded.get(
    VERSION + "/ready", summary="Whether a version is", responses=problems(401, 404, 421, 429, 500)
)
@guarded.get(
    MODEL + "/ready", summary="Whether a model is", responses=problems(401, 404, 421, 429, 500)
)
async def model_ready(request: Request, model: str, version: str | None = None) -> ModelReady:
    """Whether pictures can be sent to a model."""
    return ModelReady(name=_offer(request, model, version).name)


_INFER: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "The enlarged picture as a tensor",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "application/octet-stream": {"schema": BINARY},
            },
        },
        **problems(400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503, 504),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": Inference.model_json_schema()},
                "application/octet-stream": {"schema": BINARY},
            },
        }
    },
}


@guarded.post(VERSION + "/infer", summary="Enlarge a tensor by a version", **_INFER)
@guarded.post(MODEL + "/infer", summary="Enlarge a tensor", **_INFER)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """The input and the output are called `image`: (1, height, width, 3), UINT8 or FP32."""
    services = services_of(request)
    services.models.require_ready()
    stages = StageTimer(services.reporter)
    client = client_of(request)
    with ExitStack() as held:
        admitted = held.enter_context(services.admission.admit(client))
        with stages("read"):
            body = await read_body(request, admitted, services.settings.limits.body_seconds)
        limits = services.admission.picture_limits
        with stages("decode"):
            asked = await services.enhancer.in_worker(
                lambda: parse(body, request.headers.get(HEADER_LENGTH), limits)
            )
        model_version = held.enter_context(services.models.use(model, None, client))
        _require_version(model_version, version)
        request.state.model = model_version.name
        received = _received(request, asked, model)
        output_options = received.output_options(
            model_version.scale, services.settings.limits.max_answer_pixels
        )
        width, height = answer_size(received, output_options, model_version.scale)
        admitted.reserve_answer(width, height, RAW)
        admitted.reserve_work(
            model_version.name,
            work_pixels(received, output_options, model_version),
            received.deadline_seconds,
        )
        caller_of(request).charge_pixels(admitted.answer_pixels)
        selected = SelectedModel(model_version=model_version, picture=asked.picture)
        enhance_request = enhance_request_of(
            received, selected, output_options, client=client, progress=admitted.work_done
        )
        answer = await unless_gone(request, services.enhancer.enhance(enhance_request, stages))
        chunks, headers = message(
            asked,
            model=model_version.name,
            version=model_version.version,
            height=height,
            width=width,
            chunks=answer.chunks,
        )
        return PictureResponse(
            replace(answer, chunks=chunks, size=None),
            held.pop_all(),
            services.reporter,
            media_type=headers.pop("Content-Type"),
            headers={
                **headers,
                "Sharpline-Bundle": model_version.model.bundle.id,
                "Sharpline-Consistency": consistency_header(answer.consistency_result),
                "Cache-Control": "no-store",
            },
            taking_seconds=services.settings.limits.body_seconds,
        )


def _received(request: Request, asked: ParsedInference, model: str) -> ReceivedPicture:
    """The tensor as a picture that has been decoded already."""
    services = services_of(request)
    try:
        options = Options.model_validate({"model": model, "deadline": asked.deadline})
    except ValidationError as error:
        raise BadOptions(describe(error)) from error
    longest_seconds = services.settings.limits.deadline_seconds
    return ReceivedPicture(
        upload=Upload(data=b""),
        options=options,
        region=None,
        format=RAW,
        width=asked.picture.width,
        height=asked.picture.height,
        deadline_seconds=time.monotonic()
        + min(options.deadline or longest_seconds, longest_seconds),
        limits=services.admission.picture_limits,
        request_id=request_id_now.get(),
        earlier=None,
        embed=False,
    )


def _offer(request: Request, model: str, version: str | None) -> ModelVersion:
    model_version = services_of(request).models.champions.get(model)
    if model_version is None:
        raise UnknownModel(f"there is no model {model[:64]!r}")
    _require_version(model_version, version)
    return model_version


def _require_version(model_version: ModelVersion, version: str | None) -> None:
    if version not in (None, model_version.version):
        raise UnknownModel(
            f"{model_version.name} is served in version {model_version.version} alone"
        )
