"""/v2: the Open Inference Protocol, for clients of KServe and Triton.

Tensors are processed like pictures of POST /v1/enhance, with the same limits and problems; a
problem's detail is repeated in `error`, as the protocol requires.
"""

from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.enhance.pictures import ReceivedPicture, SelectedModel, deadline_of
from serving.enhance.request import consistency_header
from serving.enhance.steps import PictureSteps
from serving.errors import BadOptions, UnknownModel
from serving.http.access import caller_of, client_of, require_key
from serving.http.disconnect import cancel_on_disconnect
from serving.http.response import PictureResponse
from serving.http.routes import health
from serving.http.routes.documents import BINARY, inline_schema, problems
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
from superres.image.codecs import RAW, Limits

PREFIX = "/v2"
MODEL = PREFIX + "/models/{model}"
VERSION = MODEL + "/versions/{version}"

router = APIRouter(tags=["open inference protocol"])
guarded = APIRouter(tags=["open inference protocol"], dependencies=[Depends(require_key)])


class _Response(BaseModel):
    model_config = ConfigDict(frozen=True)


class Live(_Response):
    """The process is alive."""

    live: bool = True


class Ready(_Response):
    """Pictures are accepted."""

    ready: bool = True


class ModelReady(_Response):
    """A model accepts pictures."""

    name: str
    ready: bool = True


class ServerMetadata(_Response):
    """Metadata of the server."""

    name: str
    version: str
    extensions: tuple[str, ...] = ("binary_tensor_data",)


class TensorMetadata(_Response):
    """A tensor; -1 means any size. FP32 in [0, 1] is also accepted and returned."""

    name: str = TENSOR
    datatype: str = "UINT8"
    shape: tuple[int, ...] = (1, -1, -1, 3)


class ModelMetadata(_Response):
    """A model's inputs and outputs."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...] = (TensorMetadata(),)
    outputs: tuple[TensorMetadata, ...] = (TensorMetadata(),)


@router.get(PREFIX + "/health/live", summary="Server liveness", responses=problems(421, 503))
async def live(request: Request) -> Live:
    """As /livez."""
    await health.livez(request)
    return Live()


@router.get(PREFIX + "/health/ready", summary="Server readiness", responses=problems(421, 503))
async def ready(request: Request) -> Ready:
    """As /readyz."""
    await health.readyz(request)
    return Ready()


@guarded.get(PREFIX, summary="Server metadata", responses=problems(401, 421, 429, 500))
async def server_metadata() -> ServerMetadata:
    """Name, version and extensions of the protocol."""
    return ServerMetadata(name="sharpline", version=installed_version("sharpline"))


@guarded.get(VERSION, summary="Version metadata", responses=problems(401, 404, 421, 429, 500))
@guarded.get(MODEL, summary="Model metadata", responses=problems(401, 404, 421, 429, 500))
async def model_metadata(request: Request, model: str, version: str | None = None) -> ModelMetadata:
    """The input and output tensors of a served model."""
    model_version = _model_version(request, model, version)
    return ModelMetadata(
        name=model_version.name,
        versions=(model_version.version,),
        platform=f"sharpline_{model_version.model.upscaler.backend.name}",
    )


@guarded.get(
    VERSION + "/ready", summary="Version readiness", responses=problems(401, 404, 421, 429, 500)
)
@guarded.get(
    MODEL + "/ready", summary="Model readiness", responses=problems(401, 404, 421, 429, 500)
)
async def model_ready(request: Request, model: str, version: str | None = None) -> ModelReady:
    """Whether the model accepts pictures."""
    return ModelReady(name=_model_version(request, model, version).name)


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
                "application/json": {"schema": inline_schema(Inference)},
                "application/octet-stream": {"schema": BINARY},
            },
        }
    },
}


@guarded.post(VERSION + "/infer", summary="Enlarge a tensor with one version", **_INFER)
@guarded.post(MODEL + "/infer", summary="Enlarge a tensor", **_INFER)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """Input and output are named `image`: (1, height, width, 3), UINT8 or FP32."""
    pictures = services_of(request).pictures
    limits = pictures.settings.limits
    with ExitStack() as resources:
        steps = PictureSteps(pictures, resources, client_of(request))
        with steps.stages("read"):
            body = await read_body(request, steps.admitted, limits.body_seconds)
        picture_limits = pictures.admission.picture_limits
        with steps.stages("decode"):
            inference = await pictures.enhancer.in_worker(
                lambda: parse(body, request.headers.get(HEADER_LENGTH), picture_limits)
            )
        model_version = steps.use_model(model)
        _require_version(model_version, version)
        request.state.model = model_version.name
        received = _received(inference, model, picture_limits, limits.deadline_seconds)
        selected = SelectedModel(model_version=model_version, picture=inference.picture)
        planned = steps.reserve(received, selected, caller_of(request).charge_pixels)
        answer = await cancel_on_disconnect(
            request.receive, steps.enhance(planned), "result was ready"
        )
        chunks, headers = message(
            inference,
            model=model_version.name,
            version=model_version.version,
            height=answer.height,
            width=answer.width,
            chunks=answer.chunks,
        )
        return PictureResponse(
            replace(answer, chunks=chunks, size=None),
            resources.pop_all(),
            pictures.reporter,
            media_type=headers.pop("Content-Type"),
            headers={
                **headers,
                "Sharpline-Bundle": model_version.model.bundle.id,
                "Sharpline-Consistency": consistency_header(answer.consistency_result),
                "Cache-Control": "no-store",
            },
            send_timeout_seconds=limits.body_seconds,
        )


def _received(
    inference: ParsedInference, model: str, limits: Limits, longest_seconds: float
) -> ReceivedPicture:
    """The tensor as a received picture that is already decoded."""
    try:
        options = Options.model_validate({"model": model, "deadline": inference.deadline})
    except ValidationError as error:
        raise BadOptions(describe(error)) from error
    return ReceivedPicture(
        upload=Upload(data=b""),
        options=options,
        region=None,
        format=RAW,
        width=inference.picture.width,
        height=inference.picture.height,
        deadline_seconds=deadline_of(options, longest_seconds),
        limits=limits,
        request_id=request_id_now.get(),
        earlier=None,
        embed=False,
    )


def _model_version(request: Request, model: str, version: str | None) -> ModelVersion:
    model_version = services_of(request).pictures.models.champions.get(model)
    if model_version is None:
        raise UnknownModel(f"there is no model {model[:64]!r}")
    _require_version(model_version, version)
    return model_version


def _require_version(model_version: ModelVersion, version: str | None) -> None:
    if version not in (None, model_version.version):
        raise UnknownModel(
            f"{model_version.name} is served in version {model_version.version} only"
        )
