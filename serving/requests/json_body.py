"""Reads a small JSON body within its limits, and parses it."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from serving.errors import BadOptions
from serving.requests.body import body_timeout, limit_bytes, stream_body
from serving.requests.options import describe

MAX_JSON_BYTES = 1 << 20

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, model: type[Model], timeout_seconds: float) -> Model:
    """Parse the body; for routes that must not read it before the key is checked.

    FastAPI reads the body of a declared parameter first, without a limit.
    Raises BadOptions, EncodedBody, TooManyBytes, SlowBody or ClientGone.
    """
    async with body_timeout(timeout_seconds):
        chunks = [chunk async for chunk in limit_bytes(stream_body(request), MAX_JSON_BYTES)]
    try:
        return model.model_validate_json(b"".join(chunks), strict=True)
    except ValidationError as error:
        raise BadOptions(describe(error)) from error
